"""Compiles what the calls of `kernel_calls` would launch, for A100 and H100; no GPU is needed.

Run as a script in a process of its own, since Triton decides on import whether it interprets. Prints the
kernels' names, and {"call dtype": {"kernel sm_80": bytes of the cubin or an error}}, as JSON.
"""

from __future__ import annotations

import importlib
import json
import os
import pkgutil
import sys
from typing import Any
from unittest import mock

if __name__ == "__main__":
    os.environ["TRITON_INTERPRET"] = "0"

import torch
import triton
from kernel_calls import CALLS, DTYPES
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from triton.runtime.jit import JITFunction, mangle_type

import antiphon.kernels.triton
from antiphon.kernels import checks, registry

SHARED_BYTES = {80: 163 << 10, 90: 227 << 10}
"""How much of a multiprocessor's shared memory a program may take, by compute capability."""
CAPABILITIES = {torch.float32: (80,), torch.bfloat16: (80, 90), torch.float16: (90,)}
"""What each call is compiled for. Models are kept in bfloat16; what goes wrong with another type goes wrong
on either generation, or with bfloat16 as well."""
OPTIONS = ("num_warps", "num_stages", "maxnreg", "enable_fp_fusion")


def launched() -> list[str]:
    """All kernels of the package; functions that they only call do not end in `_kernel`."""
    names = []
    for module in pkgutil.iter_modules(antiphon.kernels.triton.__path__):
        loaded = importlib.import_module(f"antiphon.kernels.triton.{module.name}")
        names += [
            f"{module.name}.{name}"
            for name, value in vars(loaded).items()
            if isinstance(value, JITFunction) and name.endswith("_kernel") and value.module == loaded.__name__
        ]
    return sorted(names)


def compile_launch(
    found: dict[str, object],
    capabilities: tuple[int, ...],
    kernel: Any,
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
) -> None:
    options = {name: kwargs.pop(name) for name in OPTIONS if name in kwargs}
    signature, constants, attrs = {}, {}, {}
    bound = kernel.signature.bind(*args, **kwargs)
    bound.apply_defaults()
    for i, parameter in enumerate(kernel.params):
        value, specialises = bound.arguments[parameter.name], not parameter.do_not_specialize
        if parameter.is_constexpr or value is None or (specialises and type(value) is int and value == 1):
            signature[parameter.name], constants[parameter.name] = "constexpr", value
        else:
            signature[parameter.name] = mangle_type(value)
            # A launch specialises on this too, and on 1 above; or loads are neither wide nor pipelined.
            is_divisible = isinstance(value, torch.Tensor) or (isinstance(value, int) and value % 16 == 0)
            if specialises and is_divisible:
                attrs[(i,)] = [["tt.divisibility", 16]]
    name = f"{kernel.module.rpartition('.')[2]}.{kernel.fn.__name__}"
    for capability in capabilities:
        shared_bytes = SHARED_BYTES[capability]
        source = ASTSource(fn=kernel, signature=signature, constexprs=constants, attrs=attrs)
        try:
            compiled = triton.compile(source, target=GPUTarget("cuda", capability, 32), options=options)
            found[f"{name} sm_{capability}"] = (
                len(compiled.asm["cubin"])
                if compiled.metadata.shared <= shared_bytes
                else f"takes {compiled.metadata.shared} bytes of shared memory, of {shared_bytes}"
            )
        except Exception as error:  # noqa: BLE001 - reported by the test, for each kernel
            found[f"{name} sm_{capability}"] = f"{type(error).__name__}: {error}"


def main() -> None:
    results: dict[str, dict[str, object]] = {}
    for call_name, call in CALLS.items():
        for dtype in DTYPES:
            found = results[f"{call_name} {str(dtype).removeprefix('torch.')}"] = {}

            def run(
                kernel: Any,
                *args: Any,
                grid: Any,
                warmup: bool,
                found: Any = found,
                dtype: torch.dtype = dtype,
                **kwargs: Any,
            ) -> None:
                compile_launch(found, CAPABILITIES[dtype], kernel, args, kwargs)

            with (
                mock.patch.object(JITFunction, "run", run),
                mock.patch.object(registry, "triton_interpreted", return_value=True),
                # as on a GPU, for which these are compiled: the calls have shapes, but only zeros for indices
                mock.patch.object(checks, "values_are_at_hand", return_value=False),
                torch.inference_mode(),
            ):
                call(dtype)
    json.dump({"kernels": launched(), "calls": results}, sys.stdout)


if __name__ == "__main__":
    main()
