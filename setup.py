"""Lays out the package `antiphon` from the folders of this repository and builds `antiphon.kernels._C`, and
where nvcc is found the CUDA kernels."""

import shutil
import subprocess
from pathlib import Path
from typing import Any

from pybind11.setup_helpers import ParallelCompile, Pybind11Extension, build_ext
from setuptools import find_packages, setup

TREE = "src"
"""The package as one tree of symbolic links to the folders, which editors and type checkers can follow."""
FOLDERS = {
    "antiphon": "runtime",
    "antiphon.kernels": "kernels",
    "antiphon.export": "export",
    "antiphon.bench": "bench",
    "antiphon.evaluation": "evaluation",
    "antiphon.csrc": "csrc",
}
"""The same where links were not kept: in a zip, on some file systems, in clones with core.symlinks=false."""
CPU_SOURCES = "csrc/cpu"
CUDA_SOURCES = "csrc/cuda"
# A100, H100, and code that later ones can compile for themselves.
CUDA_TARGETS = ("arch=compute_80,code=sm_80", "arch=compute_90,code=[sm_90,compute_90]")


def layout() -> dict[str, Any]:
    """What setuptools is to install: the tree, or what it would hold."""
    # Of a folder, since the link to a file becomes a file that holds a path.
    if Path(TREE, "antiphon", "kernels").is_dir():
        return {"packages": find_packages(TREE), "package_dir": {"": TREE}}
    names = []
    for name, folder in FOLDERS.items():
        names += [name, *(f"{name}.{child}" for child in find_packages(folder))]
    return {"packages": names, "package_dir": FOLDERS}


def paths(pattern: str) -> list[str]:
    return sorted(str(path) for path in Path(CPU_SOURCES).glob(pattern))


class BuildKernels(build_ext):
    """Beside the extension a library of C functions that needs neither torch nor CUDA to be loaded."""

    def run(self) -> None:
        super().run()
        nvcc = shutil.which("nvcc")
        if nvcc is None:
            self.warn("nvcc was not found: built without CUDA kernels")
            return
        target = Path(self.get_ext_fullpath("antiphon.kernels._C")).parent / "native" / "antiphon_cuda.so"
        target.parent.mkdir(exist_ok=True)  # apart: Python would take it for a module of the package
        options = ["-std=c++17", "-O3", "-shared", "-Xcompiler", "-fPIC"]
        for code in CUDA_TARGETS:
            options += ["-gencode", code]
        sources = sorted(str(path) for path in Path(CUDA_SOURCES).glob("*.cu"))
        built = target.with_suffix(".new")  # put in place when it is whole
        if subprocess.run([nvcc, *options, *sources, "-o", str(built)], check=False).returncode == 0:
            built.replace(target)
        else:
            self.warn("nvcc failed, see above: built without CUDA kernels")


extension = Pybind11Extension(
    "antiphon.kernels._C",
    sorted(set(paths("*.cpp")) - set(paths("bind_*.cpp"))),  # which module.cpp includes
    depends=[*paths("*.h"), *paths("bind_*.cpp")],
    include_dirs=[CPU_SOURCES],
    cxx_std=17,
    extra_compile_args=["-O3", "-pthread"],
    extra_link_args=["-pthread"],
)

ParallelCompile("ANTIPHON_BUILD_JOBS").install()
setup(
    **layout(),
    ext_modules=[extension],
    cmdclass={"build_ext": BuildKernels},
)
