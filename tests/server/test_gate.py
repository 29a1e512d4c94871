"""What every request passes: its key, the size of its body, and its id."""

from __future__ import annotations

import pytest
from http_server import Served, serving_http
from serving import load

from antiphon import AsyncEngine
from antiphon.errors import ConfigError
from antiphon.server.settings import ServerSettings

OPEN = ("/health", "/ready", "/ping")
CLOSED = ("/v1/models", "/metrics", "/version", "/openapi.json", "/docs", "/nowhere")


def small() -> AsyncEngine:
    return AsyncEngine.from_engine(load())


def test_with_a_key_everything_but_health_needs_it() -> None:
    with serving_http(small, api_keys=("secret", "other")) as served:
        for path in OPEN:
            assert served.http.get(path).status_code == 200
        for path in CLOSED:
            for given in ({}, {"Authorization": "Bearer wrong"}, {"Authorization": "Basic secret"}):
                answer = served.http.get(path, headers=given)
                assert answer.status_code == 401, path
                assert answer.json()["error"]["code"] == "invalid_api_key"
        for key in ("secret", "other"):
            assert (
                served.http.get("/v1/models", headers={"Authorization": f"Bearer {key}"}).status_code == 200
            )


def test_without_a_key_nobody_needs_one(served: Served) -> None:
    assert served.http.get("/v1/models", headers={"Authorization": "Bearer any"}).status_code == 200


def test_a_body_that_is_too_large_is_refused_whole_or_in_pieces() -> None:
    with serving_http(small, max_body_bytes=1000) as served:
        for body in (b"x" * 1001, iter([b"x" * 600] * 2)):
            answer = served.http.post("/v1/chat/completions", content=body)
            assert answer.status_code == 413
            assert answer.json()["error"]["code"] == "request_too_large"
        assert served.http.get("/v1/models").status_code == 200


def test_answers_bear_the_clients_id_or_a_new_one(served: Served) -> None:
    ids = [served.http.get("/ping").headers["x-request-id"] for _ in range(2)]
    assert len(set(ids)) == 2
    assert served.http.get("/ping", headers={"x-request-id": "mine-1"}).headers["x-request-id"] == "mine-1"
    for strange in ("a b", "x" * 200):
        answered = served.http.get("/ping", headers={"x-request-id": strange}).headers["x-request-id"]
        assert answered.startswith("req_")


def test_no_page_of_the_server_loads_anything_from_elsewhere(served: Served) -> None:
    for path in ("/docs", "/redoc"):
        assert served.http.get(path).status_code == 404
    assert served.http.get("/openapi.json").json()["info"]["title"] == "Antiphon"


def test_what_is_not_there_is_told_as_openai_does(served: Served) -> None:
    answer = served.http.get("/nowhere")
    assert (answer.status_code, answer.json()["error"]["code"]) == (404, "not_found")
    answer = served.http.post("/v1/models")
    assert (answer.status_code, answer.json()["error"]["code"]) == (405, "method_not_allowed")
    answer = served.http.get("/v1/models/other")
    assert (answer.status_code, answer.json()["error"]["param"]) == (404, "model")


@pytest.mark.parametrize(
    ("settings", "error"),
    [
        ({"port": 70000}, "port: expected 0 to 65535"),
        ({"api_keys": ("",)}, "api_keys: expected keys"),
        ({"max_body_bytes": 0}, "max_body_bytes: expected more than 0"),
        ({"log_format": "xml"}, "log_format: expected 'text' or 'json'"),
    ],
)
def test_wrong_settings(settings: dict[str, object], error: str) -> None:
    with pytest.raises(ConfigError, match=error):
        ServerSettings(**settings)  # type: ignore[arg-type]
