"""Layers in the 8 and 4 bits of bitsandbytes, with the library where it is installed, and with a stand-in."""

from __future__ import annotations

import logging
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch
from checkpoints import RANDOM_MODEL
from torch import Tensor, nn

from antiphon import ConfigError, Engine, Request, SamplingParams
from antiphon.engine import arguments
from antiphon.engine import loading as engine_loading
from antiphon.kernels.library_linear import LibraryLinear, quantize_4bit, quantize_8bit
from antiphon.kernels.linear import CppLinear, linear
from antiphon.kernels.quantized import quantize_int8

SCHEMES = ("bitsandbytes", "bitsandbytes-4bit")
IS_INSTALLED = find_spec("bitsandbytes") is not None


class Rounding(nn.Linear):
    """A module of the stand-in: it rounds the weight when it is moved, as the library does."""

    def __init__(self, inputs: int, outputs: int, *, device: str, **settings: Any) -> None:
        super().__init__(inputs, outputs, bias=False, device=device)
        self.settings = settings

    def to(self, *args: Any, **kwargs: Any) -> Any:
        rounded = quantize_int8(self.weight).dequantized().to(self.weight.dtype)
        self.weight = nn.Parameter(rounded, requires_grad=False)
        state = SimpleNamespace(absmax=rounded[:, 0], state2=None)
        self.weight.quant_state = state  # type: ignore[attr-defined]
        return self

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002 - torch's name
        return nn.functional.linear(input.to(self.weight.dtype), self.weight).to(input.dtype)


def parameter(weight: Tensor, *, requires_grad: bool, **settings: Any) -> nn.Parameter:
    return nn.Parameter(weight, requires_grad=requires_grad)


@pytest.fixture(
    params=[
        "stand-in",
        pytest.param("library", marks=pytest.mark.skipif(not IS_INSTALLED, reason="it is not installed")),
    ]
)
def library(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if request.param == "library":
        return
    module = ModuleType("bitsandbytes")
    module.__spec__ = SimpleNamespace()  # type: ignore[assignment]
    module.nn = SimpleNamespace(  # type: ignore[attr-defined]
        Linear8bitLt=Rounding, Linear4bit=Rounding, Int8Params=parameter, Params4bit=parameter
    )
    monkeypatch.setitem(sys.modules, "bitsandbytes", module)


def decibels(found: Tensor, exact: Tensor) -> float:
    return float(10 * torch.log10(exact.pow(2).sum() / (found - exact).pow(2).sum()))


@pytest.mark.usefixtures("library")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(("bits", "least_db"), [(8, 35.0), (4, 17.0)])
def test_products(bits: int, least_db: float, dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(1)
    weight, x = torch.randn(96, 64, generator=generator), torch.randn(5, 64, generator=generator)
    residual = torch.randn(5, 96, generator=generator)
    stored = weight.to(dtype)
    quantized = quantize_8bit(stored, 6.0) if bits == 8 else quantize_4bit(stored, "nf4", double_quant=True)
    product = linear(quantized)
    assert isinstance(product, LibraryLinear)
    assert (product.in_features, product.out_features) == (64, 96)
    assert product(x[:0]).shape == (0, 96)
    assert decibels(product(x), x @ weight.T) > least_db
    torch.testing.assert_close(product(x, residual), product(x) + residual)
    with pytest.raises(ValueError, match=r"x: expected .*\(rows, 64\)"):
        product(x[:, :9])
    with pytest.raises(ValueError, match=r"residual: expected .*\(5, 96\)"):
        product(x, residual[:2])


@pytest.mark.usefixtures("library")
def test_a_product_logs_nothing(caplog: pytest.LogCaptureFixture) -> None:
    """In float32 the library says for each product that it is rounded to 16 bits on the way."""
    product = linear(quantize_8bit(torch.ones(32, 64), 6.0))
    logger = logging.getLogger("bitsandbytes.autograd._functions")
    logger.warning("MatMul8bitLt: inputs will be cast from %s to float16 during quantization", torch.float32)
    product(torch.ones(1, 64))
    assert not caplog.records
    logger.warning("MatMul8bitLt: something else")
    assert [record.getMessage() for record in caplog.records] == ["MatMul8bitLt: something else"]


def test_its_import_fetches_nothing(tmp_path: Path) -> None:
    """Where the package `kernels` is installed, the library would ask a hub for machine code."""
    (tmp_path / "kernels.py").write_text("raise SystemExit('asked for')")
    (tmp_path / "bitsandbytes.py").write_text(
        "try:\n    import kernels\nexcept ImportError:\n    pass\nnn = 1"
    )
    code = """if True:
        import sys
        from antiphon.kernels import library_linear
        sys.path.insert(0, sys.argv[1])
        assert library_linear._library().nn == 1
        assert "kernels" not in sys.modules
        import kernels
    """
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, check=False
    )
    assert done.stderr == "asked for\n"


@pytest.mark.usefixtures("library")
@pytest.mark.parametrize("scheme", SCHEMES)
def test_an_engine(scheme: str) -> None:
    """Layers are the library's, and heads, tables and kept modules are not."""
    request = Request("abc", modalities=("text", "units"))
    params = SamplingParams(max_tokens=8, max_units=8)
    settings: dict[str, Any] = {"quantization": scheme, "quantization_keep": ["layers.0.*"]}
    with Engine(RANDOM_MODEL, kv_cache_dtype="int8", **settings) as engine:
        layers = engine.model.text_layers.layers  # type: ignore[attr-defined]
        assert isinstance(layers[0].down, CppLinear)
        assert isinstance(layers[1].down, LibraryLinear)
        assert isinstance(engine.model.lm_head, CppLinear)
        (done,) = engine.generate(request, params)
    assert done.error is None
    assert done.text_ids
    assert done.unit_ids


@pytest.mark.parametrize("scheme", SCHEMES)
def test_on_a_gpu_it_is_refused(scheme: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine_loading, "resolve_device", lambda _: torch.device("cuda"))
    monkeypatch.setattr(engine_loading, "check_device", lambda _: None)
    message = (
        rf"^quantization: expected None, 'int8' or 'int8-weight-only' on cuda, got '{scheme}', "
        "which is for the CPU alone$"
    )
    with pytest.raises(ConfigError, match=message):
        Engine(RANDOM_MODEL, quantization=scheme)


@pytest.mark.parametrize("scheme", SCHEMES)
def test_without_the_library(scheme: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(arguments, "find_spec", lambda name: None)
    message = rf"quantization: '{scheme}' needs the package bitsandbytes, which is not installed: pip install"
    with pytest.raises(ConfigError, match=message):
        Engine(RANDOM_MODEL, quantization=scheme)
