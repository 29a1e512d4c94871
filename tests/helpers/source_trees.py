"""Copies of this repository's sources, with links and without."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

__all__ = ["FOLDERS", "ROOT", "copy_sources", "packaged", "sources"]

ROOT = Path(__file__).parents[2]
FOLDERS = {
    "runtime": "",
    "kernels": "kernels",
    "export": "export",
    "bench": "bench",
    "evaluation": "evaluation",
    "csrc": "csrc",
}
"""Where the package has the contents of each folder."""
NOT_SHIPPED = {"__pycache__", "results", "tests"}
"""Benchmark records and the C++ tests stay in the repository."""
NOT_SOURCES = {"__pycache__", "build", "dist"}


def packaged() -> set[Path]:
    """All files of the package but the compiled ones, relative to it."""
    return {
        Path(place) / path.relative_to(ROOT / folder)
        for folder, place in FOLDERS.items()
        for path in (ROOT / folder).rglob("*")
        if path.is_file() and path.suffix not in {".so", ".pyc"} and NOT_SHIPPED.isdisjoint(path.parts)
    }


def sources() -> list[Path]:
    """Files and links of the working tree, relative to ROOT, committed or not, without built ones."""
    if (ROOT / ".git").exists():
        listing = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
        done = subprocess.run(listing, cwd=ROOT, check=True, capture_output=True, text=True)
        names = [Path(name) for name in done.stdout.split("\0") if name]
    else:  # an archive
        names = [path.relative_to(ROOT) for path in ROOT.rglob("*")]
        hidden = [name for name in names if name.parts[0].startswith(".") and name.parts[0] != ".ci"]
        names = [name for name in names if name not in hidden and name.suffix != ".so"]
        names = [name for name in names if NOT_SOURCES.isdisjoint(name.parts)]
    return [name for name in names if (ROOT / name).is_file() or (ROOT / name).is_symlink()]


def copy_sources(target: Path, *, links: bool = True) -> Path:
    """Copies all sources but the recipes and the tests' golden data, which are large.

    links=False: a link becomes a file that holds its path, as git, zip and pip write it.
    """
    heavy = (Path("recipes"), Path("tests", "golden"))
    for name in sources():
        if not any(name.is_relative_to(folder) for folder in heavy):
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            if (ROOT / name).is_symlink() and not links:
                (target / name).write_text(str((ROOT / name).readlink()))
            else:
                shutil.copy2(ROOT / name, target / name, follow_symlinks=False)
    return target
