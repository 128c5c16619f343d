"""How soon the book's first page can be used: on a processor a quarter as fast, over a slow line.

    python tools/book_speed.py [--page chapters/09_mixture_of_experts.html] [--runs 5]

The profile: this machine's processor slowed down four times by Chromium, 10 Mbit/s down, 40 ms there and back, nothing
cached. The page can be used once the routing explorer has been drawn (of another page: once all of it has been loaded).
That time depends on what else the machine does. The processor time of the page's main thread does not: four times that,
and the line's time, is what a quiet machine takes. Needs the built book, playwright and Chromium.
"""

from __future__ import annotations

import argparse
import statistics
import sys
from typing import Any

import shoot

BOOK = shoot.ROOT / "_build" / "html"
SLOWER = 4
LINE = {"offline": False, "latency": 40, "downloadThroughput": 10e6 / 8, "uploadThroughput": 5e6 / 8}
READY = "() => document.documentElement.dataset.explorer === 'ready' || !document.getElementById('tm-explorer')"


def visit(chromium: Any, url: str) -> tuple[float, float, int]:
    """Open a page afresh: seconds until it can be used, processor seconds of its main thread, bytes that came."""
    page = chromium.new_page(viewport={"width": 1280, "height": 900})
    session = page.context.new_cdp_session(page)
    came: list[int] = []
    session.on("Network.loadingFinished", lambda event: came.append(event["encodedDataLength"]))
    session.send("Network.enable")
    session.send("Network.emulateNetworkConditions", LINE)
    session.send("Network.setCacheDisabled", {"cacheDisabled": True})
    session.send("Emulation.setCPUThrottlingRate", {"rate": SLOWER})
    session.send("Performance.enable", {"timeDomain": "threadTicks"})
    page.goto(url, wait_until="load", timeout=180_000)
    page.wait_for_function(READY, timeout=180_000)
    drawn = "performance.getEntriesByName('explorer')[0]?.startTime"
    painted = "performance.getEntriesByName('first-contentful-paint')[0]?.startTime ?? 0"
    loaded = "performance.getEntriesByType('navigation')[0].loadEventEnd"
    seconds = page.evaluate(f"Math.max({drawn} ?? {loaded}, {painted})") / 1000
    metrics = {metric["name"]: metric["value"] for metric in session.send("Performance.getMetrics")["metrics"]}
    page.close()
    return seconds, metrics["TaskDuration"], sum(came)


def main() -> int:
    """Visit the page some times and print the medians; return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--page", default="index.html")
    parser.add_argument("--runs", type=int, default=5)
    options = parser.parse_args()
    if not (BOOK / options.page).exists():
        parser.error(f"there is no {BOOK / options.page}: make book")
    shown = argparse.Namespace(width=1280, height=900, theme="light")
    with shoot.serve_pages(BOOK / "index.html", "light") as url, shoot.browser(shown) as page:
        address = url.removesuffix("index.html") + options.page
        visits = [visit(page.context.browser, address) for _ in range(options.runs)]
    seconds, thread, size = (statistics.median(values) for values in zip(*visits, strict=True))
    print(f"{options.page}: can be used after {seconds:.2f} s ({min(one[0] for one in visits):.2f} at best)")
    print(f"main thread: {thread:.2f} s of processor time, unthrottled; loaded: {size / (1 << 20):.2f} MiB")
    return 0


if __name__ == "__main__":
    sys.exit(main())
