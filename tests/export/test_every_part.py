"""Engines of every part but the flow, from real exports: what operators they have, that they compute what
their files compute, by the stand-in for TensorRT, and that TensorRT for RTX builds them for an A100."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import onnx
import pytest
from checkpoints import RANDOM_CODEC, RANDOM_MODEL
from fake_gpu import FakeGpu
from made_once import made_once
from tensorrt_operators import check_operators

from antiphon.assets.embedded import EMBEDDED_CODEC
from antiphon.codec.tensorrt.manifest import Manifest
from antiphon.codec.tensorrt.profile import Profile
from antiphon.export.conditions import ENCODER_PART
from antiphon.export.folder import export_parts
from antiphon.export.hift import HIFT_PART
from antiphon.export.listening import LISTENING_PART
from antiphon.export.part import Part, Precision
from antiphon.export.tensorrt.build import build_engine, builder_for, rest_path
from antiphon.export.tensorrt.graphs import between
from antiphon.export.tokenizer import TOKENIZER_PART
from antiphon.export.verify import verify
from antiphon.export.vision import VISION_PART

pytestmark = [pytest.mark.slow, pytest.mark.long]

PARTS: dict[str, Part[Any, Any]] = {
    part.kind: part for part in (ENCODER_PART, HIFT_PART, TOKENIZER_PART, LISTENING_PART, VISION_PART)
}
PROFILES = {
    "encoder": "1:12:20x1:40:70x1:1:3",
    "hift": "1:25:40x1:1:3",
    "tokenizer": "1:50:60x1:1:3",
    "listening": "1:20:40x1:1:3",
    "vision": "1:2:3",
}
PRECISIONS: tuple[Precision, ...] = ("fp32", "fp16")
EXACT = ("NORMALIZATION", "SOFTMAX", "REDUCE", "ACTIVATION")
"""Layers that are float32 in any precision."""
_SOURCES: dict[str, Any] = {}


def source_of(part: Part[Any, Any]) -> Any:
    """The small codec and model of the tests; the tokenizer is the packaged one, which is ours."""
    if part.kind not in _SOURCES:
        own = EMBEDDED_CODEC if part.kind == "tokenizer" else RANDOM_CODEC
        _SOURCES[part.kind] = part.read(own if part.folder == "codec" else RANDOM_MODEL)
    return _SOURCES[part.kind]


@pytest.fixture(params=PRECISIONS)
def exported(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """All in one precision, float16 with its weights beside."""

    def make(made: Path) -> None:
        weights: Any = "beside" if request.param == "fp16" else "inside"
        parts = list(PARTS.values())
        export_parts(parts, source_of, made / "out", precision=request.param, weights=weights)

    return made_once(tmp_path_factory, f"export_parts_{request.param}", make) / "out"


@pytest.fixture
def copied(exported: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(exported, tmp_path / "out"))


def model_of_engine(path: Path, part: Part[Any, Any]) -> onnx.ModelProto:
    model = onnx.load(path)
    return between(model, path, part.engine.inputs, part.engine.outputs)


def test_operators_are_those_that_tensorrt_10_documents(exported: Path) -> None:
    """And float64 is nowhere in what an engine is built of."""
    for part in PARTS.values():
        check_operators(model_of_engine(exported / part.file, part))


def test_by_the_stand_in_they_compute_what_pytorch_computes(
    copied: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    FakeGpu(monkeypatch)
    library, target, is_here = builder_for(None)
    for kind, part in PARTS.items():
        profiles = [Profile.parse(PROFILES[kind])]
        build_engine(copied / part.file, library, target, is_here=is_here, profiles=profiles)
    assert rest_path(copied / "hift.onnx").is_file()
    rows = list(verify(copied, source_of, [(1,), (2,), (12, 1, 7)]))
    engines = [row for row in rows if row.file.endswith(".engine")]
    results = {
        "encoder": {"mu", "speaker"},
        "hift": {"samples"},
        "tokenizer": {"units", "file"},
        "listening": {"labels"},
        "vision": {"embeddings"},
    }
    for kind, expected in results.items():
        own = [row for row in engines if row.file.startswith(f"{kind}.sm80.")]
        assert {row.result for row in own} == expected
        # 20 tiles are more than the profile holds.
        assert {row.sizes for row in own} == {(1,), (2,), *([] if kind == "vision" else [(12, 1, 7)])}
    assert all(row.is_within for row in rows)


@pytest.mark.parametrize("kind", list(PARTS))
def test_tensorrt_for_rtx_builds_them(kind: str, copied: Path) -> None:
    pytest.importorskip("tensorrt_rtx", reason="the extra tensorrt-rtx is not installed")
    path = copied / PARTS[kind].file
    library, target, is_here = builder_for("sm80")
    assert (library.name, is_here) == ("tensorrt_rtx", False)
    profiles = [Profile.parse(PROFILES[kind])]
    said: list[str] = []
    manifest, is_new = build_engine(path, library, target, profiles=profiles, say=said.append)
    assert is_new
    assert Manifest.read(copied / manifest.file) == manifest
    assert manifest.kind == kind
    assert any(f"leaves out {PARTS[kind].engine.why}" in each for each in said) == bool(
        PARTS[kind].engine.why
    )
    assert (copied / manifest.engine).read_bytes().startswith(b"vtrt")
    assert len(manifest.memory_bytes) == 1
    types = manifest.types
    assert types is not None
    whole = {"BOOL", "INT32", "INT64"}
    for layer in EXACT:
        assert set(types.get(layer, {})) <= {"FLOAT", *whole}, layer
    products = [types[layer] for layer in ("CONVOLUTION", "DECONVOLUTION") if layer in types]
    if manifest.precision == "fp16":
        assert "HALF" in types["MATRIX_MULTIPLY"] or any("HALF" in each for each in products)
    else:
        assert all(set(each) <= {"FLOAT", *whole} for each in types.values())


def test_polygraphy_finds_nothing_unsupported(exported: Path, tmp_path: Path) -> None:
    """By the parser of TensorRT for RTX, which is that of TensorRT 11, of what engines are built of."""
    pytest.importorskip("tensorrt_rtx", reason="the extra tensorrt-rtx is not installed")
    pytest.importorskip("polygraphy")
    for part in PARTS.values():
        onnx.save(model_of_engine(exported / part.file, part), tmp_path / part.file)
        done = subprocess.run(
            [Path(sys.executable).with_name("polygraphy"), "inspect", "capability", tmp_path / part.file],
            cwd=tmp_path,  # it leaves a folder
            env=os.environ | {"POLYGRAPHY_USE_TENSORRT_RTX": "1"},
            capture_output=True,
            text=True,
            check=False,
        )
        assert "Graph is fully supported by TensorRT" in done.stdout, done.stdout + done.stderr
