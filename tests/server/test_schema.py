"""The server does what its OpenAPI document says: requests made from the document, right and wrong ones, get
statuses, types and bodies that it names."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest
import schemathesis
from http_server import Served, serving_http
from hypothesis import HealthCheck, Phase, given, settings
from schemathesis import GenerationMode
from schemathesis.specs.openapi.checks import positive_data_acceptance
from serving import load

from antiphon import AsyncEngine
from antiphon.server.app import create_app
from antiphon.server.settings import ServerSettings

pytestmark = pytest.mark.slow

NUM_EXAMPLES = 20
"""Of right requests to each route, and of wrong ones."""
ROUTES = [
    ("GET", "/health"),
    ("GET", "/ready"),
    ("GET", "/ping"),
    ("GET", "/version"),
    ("GET", "/metrics"),
    ("GET", "/v1/models"),
    ("GET", "/v1/models/{model}"),
    ("POST", "/v1/chat/completions"),
    ("POST", "/v1/responses"),
    ("POST", "/v1/audio/transcriptions"),
    ("POST", "/v1/audio/speech"),
    ("GET", "/v1/audio/voices"),
    ("POST", "/v1/audio/voices"),
    ("DELETE", "/v1/audio/voices/{voice}"),
    ("POST", "/v1/realtime/client_secrets"),
    ("POST", "/v1/realtime/sessions"),
    ("POST", "/v1/realtime/transcription_sessions"),
]
ASKED: dict[str, dict[str, Any]] = {
    "/v1/chat/completions": {"messages": [{"role": "user", "content": "Hello"}], "max_tokens": 3},
    "/v1/responses": {"input": "Hello", "max_output_tokens": 3},
}
"""What has an answer, whatever else is set: random messages seldom have one."""


@pytest.fixture(scope="module")
def small() -> Iterator[Served]:
    """A model that answers at once, without a codec."""
    with serving_http(lambda: AsyncEngine.from_engine(load())) as running:
        yield running


@pytest.fixture(scope="module")
def schema(small: Served) -> Any:
    return schemathesis.openapi.from_url(f"{small.address}/openapi.json")


def test_every_route_is_tried(small: Served) -> None:
    """But those of an operator's questions, which are simple, are not tried with wrong bodies."""
    paths = small.http.get("/openapi.json").json()["paths"]
    assert {(method.upper(), path) for path in paths for method in paths[path]} == set(ROUTES)


def cases() -> list[Any]:
    """Each route, with what the document allows, and if it has a body, with what it does not allow."""
    right = [(*route, GenerationMode.POSITIVE) for route in ROUTES]
    return right + [(*route, GenerationMode.NEGATIVE) for route in ROUTES if route[0] == "POST"]


@pytest.mark.parametrize(("method", "path", "mode"), cases())
def test_answers_are_as_documented(schema: Any, method: str, path: str, mode: GenerationMode) -> None:
    operation = schema[path][method]
    statuses: Counter[int] = Counter()

    @settings(
        max_examples=NUM_EXAMPLES,
        derandomize=True,
        database=None,
        deadline=None,
        phases=[Phase.generate],
        suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much, HealthCheck.data_too_large],
    )
    @given(case=operation.as_strategy(generation_mode=mode))
    def check(case: Any) -> None:
        if mode is GenerationMode.POSITIVE and path in ASKED:
            case.body |= ASKED[path]
        answer = case.call(timeout=60)
        # A document cannot say all that a server may refuse, such as text without a letter.
        case.validate_response(answer, excluded_checks=[positive_data_acceptance])
        statuses[answer.status_code] += 1

    check()
    if mode is GenerationMode.NEGATIVE:
        assert set(statuses) == {400}
    elif path in ASKED:
        assert statuses[200] > NUM_EXAMPLES // 2, statuses
    elif method == "GET" and "{" not in path:  # there is one way to ask
        assert set(statuses) == {200}


def test_a_document_says_that_a_key_is_needed() -> None:
    """And which questions need none."""
    document = create_app(
        lambda: pytest.fail("nothing is loaded"), ServerSettings(api_keys=("key",))
    ).openapi()
    for path, operations in document["paths"].items():
        for operation in operations.values():
            is_open = path in ("/health", "/ready", "/ping")
            assert ("security" in operation) is not is_open
            assert "422" not in operation["responses"]
            assert path.startswith("/v1/") == ("401" in operation["responses"])
    assert not {"HTTPValidationError", "ValidationError"} & set(document["components"]["schemas"])
