"""The small golden codec, exported once for all processes of a test run."""

from __future__ import annotations

from pathlib import Path

import pytest
from codec_fixtures import codec, folder, folder_copy, odd_flow_params, odd_hift_params, randomized
from made_once import made_once

from antiphon.export.conditions import ENCODER_PART
from antiphon.export.folder import export_flow, export_parts
from antiphon.export.hift import HIFT_PART
from antiphon.export.sources import FlowSource, Folders, read_flow

__all__ = ["codec", "folder", "folder_copy", "odd_flow_params", "odd_hift_params", "randomized"]


@pytest.fixture(scope="session")
def source(folder: Path) -> FlowSource:
    return read_flow(folder)


@pytest.fixture(scope="session")
def fp32(source: FlowSource, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Estimator and solver in float32."""

    def make(made: Path) -> None:
        export_flow(source, made / "out", solver=True)

    return made_once(tmp_path_factory, "export_fp32", make) / "out"


@pytest.fixture(scope="session")
def front_and_back(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`encoder` and `hift` in float32, their weights beside."""

    def make(made: Path) -> None:
        source_of = Folders(folder, folder)
        export_parts([ENCODER_PART, HIFT_PART], source_of, made / "out", weights="beside")

    return made_once(tmp_path_factory, "export_front_and_back", make) / "out"


@pytest.fixture(scope="session")
def fp16(source: FlowSource, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same in float16, under CosyVoice's names."""

    def make(made: Path) -> None:
        export_flow(source, made / "out", precision="fp16", solver=True, cosyvoice_names=True)

    return made_once(tmp_path_factory, "export_fp16", make) / "out"
