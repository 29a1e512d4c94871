"""Maps the import name `antiphon` onto the folders of this repository and builds `antiphon._C`."""

from pathlib import Path

from pybind11.setup_helpers import ParallelCompile, Pybind11Extension, build_ext
from setuptools import find_packages, setup

FOLDERS = {
    "antiphon": "runtime",
    "antiphon.kernels": "kernels",
    "antiphon.export": "export",
    "antiphon.bench": "bench",
    "antiphon.csrc": "csrc",
}
CPU_SOURCES = "csrc/cpu"


def packages() -> list[str]:
    names = []
    for name, folder in FOLDERS.items():
        names += [name, *(f"{name}.{child}" for child in find_packages(folder))]
    return names


def paths(pattern: str) -> list[str]:
    return sorted(str(path) for path in Path(CPU_SOURCES).glob(pattern))


extension = Pybind11Extension(
    "antiphon._C",
    paths("*.cpp"),
    depends=paths("*.h"),
    include_dirs=[CPU_SOURCES],
    cxx_std=17,
    extra_compile_args=["-O3", "-pthread"],
    extra_link_args=["-pthread"],
)

ParallelCompile("ANTIPHON_BUILD_JOBS").install()
setup(
    packages=packages(),
    package_dir=FOLDERS,
    ext_modules=[extension],
    cmdclass={"build_ext": build_ext},
)
