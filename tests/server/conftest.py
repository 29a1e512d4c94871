"""One server of the packaged model for all tests of this room that do not need one of their own."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from http_server import Served, serving_http


@pytest.fixture(scope="session")
def served() -> Iterator[Served]:
    with serving_http() as running:
        yield running
