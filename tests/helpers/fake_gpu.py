"""A machine with one GPU of CUDA and with TensorRT, made of stand-ins, for a test's length."""

from __future__ import annotations

import sys
from pathlib import Path

import fake_cuda
import pytest
from fake_cuda import FakeCuda, FakeStream

from antiphon.codec import exported

__all__ = ["VERSIONS", "FakeGpu"]

FAKE = Path(__file__).with_name("fake_tensorrt")
VERSIONS = ("10.16.1.11", "11.4.0.12")


class FakeGpu:
    """Tensors are on the CPU; streams are kept apart as on a GPU, and waiting on the host is an error."""

    def __init__(self, patch: pytest.MonkeyPatch, version: str = VERSIONS[0]) -> None:
        self._patch = patch
        self.cuda = FakeCuda(patch)
        patch.setitem(exported.PLACES, "tensorrt", "cpu")
        patch.setattr(FakeStream, "synchronize", _waited)
        patch.setattr("torch.cuda.synchronize", _waited)
        patch.syspath_prepend(FAKE)
        patch.setenv("PYTHONPATH", str(FAKE))
        self.install(version)

    def install(self, version: str | None) -> None:
        """Another version of TensorRT; None: it is not there."""
        self._patch.setenv("FAKE_TENSORRT", version or "")
        self._patch.delitem(sys.modules, "tensorrt", raising=False)
        if version is None:
            self._patch.setitem(sys.modules, "tensorrt", None)

    def replace(self, capability: tuple[int, int]) -> None:
        """Another GPU."""
        self._patch.setattr(fake_cuda, "CAPABILITY", capability)
        self._patch.setenv("FAKE_CAPABILITY", "{}.{}".format(*capability))
        self._patch.delitem(sys.modules, "tensorrt", raising=False)

    def fail(self, how: str) -> None:
        """crash, hang, refuse or parse: of the builder"""
        self._patch.setenv("FAKE_FAILURE", how)


def _waited(*_: object) -> None:
    raise AssertionError("the host waited for the device")
