"""An engine of the packaged model, and what it says."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import httpx2
import pytest
from http_server import serving_http
from ray_cluster import QUESTIONS, reply

from antiphon import AsyncEngine


@pytest.fixture(scope="module")
def speaking_engine() -> Iterator[AsyncEngine]:
    engine = AsyncEngine(device="cpu", progress=False, kv_cache_bytes=64 << 20)
    yield engine
    engine.close()


@pytest.fixture(scope="module")
def expected() -> dict[str, bytes]:
    """What a server that is alone says."""

    async def say(address: str) -> dict[str, bytes]:
        async with httpx2.AsyncClient(base_url=address, timeout=60) as http:
            said = {question: await reply(http, question) for question in QUESTIONS}
            return {question: sound for question, sound in said.items() if sound}

    with serving_http() as alone:
        said = asyncio.run(say(alone.address))
    assert said.keys() == set(QUESTIONS)
    return said
