"""Files from the npm registry, each in the version and with the checksum that a manifest names."""

from __future__ import annotations

import base64
import hashlib
import shutil
import subprocess
import tarfile
from fnmatch import fnmatch
from pathlib import Path, PurePosixPath

ROOT = Path(__file__).resolve().parents[2]
BUILD = ROOT / "_build"


def download(asset: dict, folder: Path) -> Path:
    """Return the package's archive in `folder`, fetched by npm unless it is there already.

    Raises FileNotFoundError when npm is not installed, RuntimeError when npm fails, and ValueError when the
    archive has another SHA-512 than the manifest says.
    """
    name = f"{asset['package']}@{asset['version']}"
    archive = folder / f"{name.replace('/', '-').lstrip('@')}.tgz"
    if not archive.exists():
        npm = shutil.which("npm")
        if npm is None:
            raise FileNotFoundError(f"npm is needed to fetch {name}; install Node.js, which brings it")
        fresh = folder / "fresh"
        shutil.rmtree(fresh, ignore_errors=True)
        fresh.mkdir(parents=True)
        done = subprocess.run(
            [npm, "pack", name, "--silent", "--pack-destination", str(fresh)],
            capture_output=True,
            text=True,
            cwd=fresh,
            stdin=subprocess.DEVNULL,
        )
        if done.returncode:
            raise RuntimeError(f"npm could not fetch {name}:\n{done.stderr.strip()}")
        next(fresh.glob("*.tgz")).replace(archive)
    digest = base64.b64encode(hashlib.sha512(archive.read_bytes()).digest()).decode()
    if f"sha512-{digest}" != asset["integrity"]:
        archive.unlink()
        raise ValueError(f"{name}: expected {asset['integrity']}, got sha512-{digest}; the file was removed")
    return archive


def unpack(archive: Path, asset: dict, target: Path) -> None:
    """Copy the files that the manifest names, and the license, out of an npm archive into `target`.

    Raises ValueError when a pattern of the manifest matches no file.
    """
    patterns = {str(PurePosixPath("package", asset["from"], name)): False for name in asset["files"]}
    with tarfile.open(archive) as tar:
        for member in filter(tarfile.TarInfo.isfile, tar.getmembers()):
            wanted = [pattern for pattern in patterns if fnmatch(member.name, pattern)]
            if not wanted and not fnmatch(member.name, "package/LICENSE*"):
                continue
            patterns |= dict.fromkeys(wanted, True)
            start = PurePosixPath("package", asset["from"] if wanted else ".")
            file = target / PurePosixPath(member.name).relative_to(start)
            file.parent.mkdir(parents=True, exist_ok=True)
            with tar.extractfile(member) as data, file.open("wb") as out:  # pyright: ignore[reportOptionalContextManager]
                shutil.copyfileobj(data, out)
    missing = [pattern for pattern, found in patterns.items() if not found]
    if missing:
        raise ValueError(f"{archive.name} holds no file that matches {', '.join(missing)}")
