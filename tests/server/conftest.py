"""Servers of the packaged model for all tests of this room that do not need one of their own."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from importlib.resources import files
from pathlib import Path

import pytest
from http_server import Served, serving_http
from serving import load
from tiny_speaker import save_speaker_network

from antiphon import AsyncEngine

TINY = Path(str(files("antiphon.assets") / "tiny"))


@pytest.fixture(scope="session")
def served() -> Iterator[Served]:
    with serving_http() as running:
        yield running


@pytest.fixture(scope="module")
def cloning(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """With a network of random weights that tells voices apart."""
    folder = Path(shutil.copytree(TINY / "cosyvoice", tmp_path_factory.mktemp("codec") / "codec"))
    save_speaker_network(folder / "campplus.onnx")

    def make() -> AsyncEngine:
        model = str(TINY / "stream_omni")
        return AsyncEngine(model, codec=folder, device="cpu", progress=False, kv_cache_bytes=64 << 20)

    with serving_http(make) as running:
        yield running


@pytest.fixture(scope="session")
def keyed() -> Iterator[Served]:
    """A small random model that answers only those who know the key."""
    with serving_http(lambda: AsyncEngine.from_engine(load()), api_keys=("right",)) as running:
        yield running
