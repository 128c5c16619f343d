"""Make one of the project's virtual environments, or bring it up to date; do nothing when it is.

    python tools/setup_env.py .venv course          what a learner needs (requirements.txt)
    python tools/setup_env.py .venv test lint       extras of pyproject.toml, with the package itself, editable

What was installed is remembered in FOLDER/tinymoe.json with a hash of what was asked for, so that a change of the
dependencies, and nothing else, installs again. Needs the standard library alone.
"""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import time
from pathlib import Path

OLDEST = (3, 11)
ROOT = Path(__file__).resolve().parent.parent


def fingerprint(extra: str, python: str) -> str:
    """Hash everything that decides what installing `extra` into an environment of this Python would do."""
    import tomllib

    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))
    asked = [extra, python, str(ROOT), project["build-system"], project["project"]]
    requirements = (ROOT / "requirements.txt").read_text("utf-8") if extra == "course" else ""
    return hashlib.sha256(json.dumps([asked, requirements], sort_keys=True).encode()).hexdigest()


def pins_first(extra: str) -> list[str]:
    """Return the extra's exactly pinned requirements, which are installed before the others.

    Once such a version is there, no other package's looser range can fetch a different build of it.
    """
    import tomllib

    extras = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]["optional-dependencies"]
    if extra not in extras:
        raise ValueError(f"extra: expected one of {', '.join(sorted(extras))}, got {extra!r}")
    return [requirement for requirement in extras[extra] if "==" in requirement]


def interpreter(folder: Path) -> Path:
    """Return where the environment's Python is, or would be."""
    return folder / ("Scripts/python.exe" if os.name == "nt" else "bin/python")


def version(python: Path) -> str:
    """Return the interpreter's version, "" when it cannot run pip or is not there."""
    ask = "import platform, pip; print(platform.python_version())"
    try:
        return subprocess.run([python, "-c", ask], capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return ""


def usable(found: str) -> bool:
    """Whether a version, as text, is new enough."""
    return bool(found) and tuple(map(int, found.split(".")[:2])) >= OLDEST


def install(folder: Path, extra: str) -> None:
    """Install one extra, and the package itself, into the environment."""
    quiet = [] if sys.stdout.isatty() else ["--quiet"]
    pip = [str(interpreter(folder)), "-m", "pip", "install", "--disable-pip-version-check", *quiet]
    wanted = ["-r", "requirements.txt"] if extra == "course" else ["-e", f".[{extra}]"]
    for requirements in (pins_first(extra), wanted):
        if requirements:
            subprocess.run([*pip, *requirements], cwd=ROOT, check=True)


def main(arguments: list[str]) -> int:
    """Set up the environment named first for the extras named after it; return the exit status."""
    if len(arguments) < 2:
        print(__doc__, file=sys.stderr)
        return 2
    folder, extras = Path(arguments[0]), arguments[1:]
    if not usable(found := version(interpreter(folder))):
        this = sys.version.split()[0]
        if sys.version_info < OLDEST:
            print(f"tinymoe needs Python {'.'.join(map(str, OLDEST))} or newer, got {this}", file=sys.stderr)
            return 2
        print(f"Making the environment {folder} with Python {this} ({sys.executable})", flush=True)
        subprocess.run([sys.executable, "-m", "venv", "--clear", str(folder)], check=True)
        found = version(interpreter(folder))
    stamp = folder / "tinymoe.json"
    done = json.loads(stamp.read_text("utf-8")) if stamp.exists() else {}
    for extra in extras:
        if done.get(extra) == (now := fingerprint(extra, found)):
            continue
        start = time.monotonic()
        print(f"Installing what `{extra}` needs into {folder} (once; this takes a minute or two)", flush=True)
        install(folder, extra)
        done[extra] = now
        stamp.write_text(json.dumps(done, indent=2), "utf-8")
        print(f"Installed in {time.monotonic() - start:.0f} s", flush=True)
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except (subprocess.CalledProcessError, ValueError) as problem:
        sys.exit(f"setup_env: {problem}")
