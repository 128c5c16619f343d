"""Measure how long the chapters run, for the map of the book: processor time of a fresh kernel, on one thread.

    python tools/book_times.py [NN...]

Processor time hardly depends on what else the machine does, and one thread makes it comparable: on a quiet machine it
is about what a reader waits. The chapters are run as a learner who has solved nothing, and not saved.
`book/times.json` keeps the results, with the processor's name, and is written after each chapter.
"""

from __future__ import annotations

import json
import os
import platform
import resource
import sys
from pathlib import Path

from chaptertools.execute import execute
from chaptertools.notebooks import read_chapters

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "book" / "times.json"
ONE_THREAD = {f"{library}_NUM_THREADS": "1" for library in ("OPENBLAS", "OMP", "MKL", "NUMBA")}


def processor() -> str:
    """The processor's name, as Linux tells it, else its architecture."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text("utf-8").splitlines() if info.exists() else []
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.machine())


def processor_seconds() -> float:
    """User and system time of all kernels that have ended so far."""
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def main(numbers: list[str]) -> int:
    """Run the chapters with these numbers, all without any, and record each; return the exit status."""
    os.environ.update(ONE_THREAD)
    for chapter in read_chapters(ROOT / "chapters", numbers):
        before = processor_seconds()
        execute(ROOT, chapter)
        seconds = round(processor_seconds() - before)
        known = json.loads(RESULTS.read_text("utf-8")) if RESULTS.exists() else {}
        known[chapter.name] = {"seconds": seconds, "processor": processor()}
        fresh = RESULTS.with_suffix(".new")
        fresh.write_text(json.dumps(dict(sorted(known.items())), indent=2) + "\n", "utf-8")
        os.replace(fresh, RESULTS)
        print(f"{chapter.name}  {seconds} s", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
