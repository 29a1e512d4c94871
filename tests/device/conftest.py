from __future__ import annotations

import pytest
from fake_cuda import FakeCuda


@pytest.fixture
def cuda(monkeypatch: pytest.MonkeyPatch) -> FakeCuda:
    """Two GPUs that compute nothing."""
    return FakeCuda(monkeypatch)
