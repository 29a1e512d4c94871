"""A C++ compiler that compiles the same sources once: `python compile_once.py CACHE g++ -O3 -c a.cpp -o a.o`.

Several installations of the package compile equal copies of csrc/. An object is used again only if all of
csrc/, and all options except paths, are the same, so a copy that lacks a header is noticed.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

__all__ = ["command"]


def command(cache: Path) -> str:
    """The value for the environment variable CXX."""
    return f"{sys.executable} {__file__} {cache} {os.environ.get('CXX', 'g++')}"


def _key(call: list[str]) -> str:
    import pybind11

    digest = hashlib.sha256(f"{sys.version} {pybind11.__version__}".encode())
    for place, argument in enumerate(call):
        if not argument.startswith("-I") and call[place - 1] not in ("-I", "-o"):
            digest.update(argument.encode() + b"\0")
    for path in sorted(Path("csrc").rglob("*")):
        if path.is_file():
            digest.update(f"{path}\0".encode() + path.read_bytes())
    return digest.hexdigest()


def main() -> int:
    cache, call = Path(sys.argv[1]), sys.argv[2:]
    if "-c" not in call:  # links
        return subprocess.run(call, check=False).returncode
    made = Path(call[call.index("-o") + 1])
    kept = cache / f"{_key(call)}.o"
    if not kept.exists():
        status = subprocess.run(call, check=False).returncode
        if status != 0:
            return status
        cache.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=cache, delete=False) as new:
            new.write(made.read_bytes())
        Path(new.name).replace(kept)
    shutil.copyfile(kept, made)
    return 0


if __name__ == "__main__":
    sys.exit(main())
