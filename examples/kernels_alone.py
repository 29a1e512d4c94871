"""The kernels without an engine, and how far they are from PyTorch.

python examples/kernels_alone.py
"""

from __future__ import annotations

import itertools

import torch

from antiphon import kernels


def main() -> None:
    # Three rows of CTC labels, one after the other; 0 is the blank.
    labels = torch.tensor([7, 7, 0, 7, 3, 3, 0, 0, 5, 5, 0, 5], dtype=torch.int32)
    cu_seqlens = torch.tensor([0, 5, 8, 12], dtype=torch.int32)
    collapsed = kernels.ctc_collapse(labels, cu_seqlens, blank=0)
    bounds = collapsed.cu_out.tolist()
    for row, (start, end) in enumerate(itertools.pairwise(bounds)):
        print(f"row {row}: {collapsed.ids[start:end].tolist()}")

    # A weight is packed once, then read at memory speed. The caller may drop its own copy.
    generator = torch.Generator().manual_seed(0)
    weight, x = torch.randn(512, 256, generator=generator), torch.randn(3, 256, generator=generator)
    print(f"linear: off by {(kernels.linear(weight)(x) - x @ weight.T).abs().max():.1e}")

    # Any backend can be named; "torch" is the reference.
    scale = torch.ones(256)
    ours, reference = kernels.rms_norm(x, scale, 1e-5), kernels.rms_norm(x, scale, 1e-5, backend="torch")
    print(f"rms_norm: off by {(ours - reference).abs().max():.1e}")

    for op in kernels.ops():
        print(f"{op:20}{', '.join(kernels.backends(op))}")


if __name__ == "__main__":
    main()
