"""Which replica a request goes to, without Ray."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from antiphon.errors import ConfigError
from antiphon.scale.routing import by_waiting, replica_of
from antiphon.server.settings import ServerSettings

SECONDS = st.floats(0, 100)


@given(st.lists(SECONDS, max_size=6), SECONDS)
def test_replicas_that_keep_up_are_asked_first_and_otherwise_the_order_stays(
    waiting_s: list[float], spill_s: float
) -> None:
    order = by_waiting(waiting_s, spill_s)
    assert sorted(order) == list(range(len(waiting_s)))
    is_late = [waiting_s[i] > spill_s for i in order]
    assert is_late == sorted(is_late)
    for late in (False, True):
        same = [i for i in order if (waiting_s[i] > spill_s) == late]
        assert same == sorted(same)


def websocket(query: str = "", **headers: str) -> dict[str, Any]:
    sent = [(name.replace("_", "-").encode(), value.encode()) for name, value in headers.items()]
    return {"type": "websocket", "query_string": query.encode(), "headers": sent}


@pytest.mark.parametrize(
    ("query", "headers"),
    [
        ("resume={}&after=7", {}),
        ("", {"authorization": "Bearer {}"}),
        ("", {"sec_websocket_protocol": "realtime, openai-insecure-api-key.{}, other"}),
    ],
    ids=["resume", "key", "key of a page"],
)
@pytest.mark.parametrize("secret", ["abc-_9", "ek_A-b_c"])
def test_a_secret_leads_to_the_replica_that_gave_it(query: str, headers: dict[str, str], secret: str) -> None:
    own = ServerSettings(replica="x7Q2").named(secret)
    scope = websocket(query.format(own), **{name: value.format(own) for name, value in headers.items()})
    assert replica_of(scope) == "x7Q2"
    assert replica_of(scope | {"type": "http"}) is None


def test_a_secret_of_a_server_that_is_alone_leads_nowhere() -> None:
    assert ServerSettings().named("abc") == "abc"
    assert replica_of(websocket("resume=abc", authorization="Bearer abc")) is None
    assert replica_of({"type": "websocket"}) is None


@pytest.mark.parametrize("name", ["", "a b", "a.b", "é", "a-b"])
def test_a_replicas_name_is_letters_and_digits(name: str) -> None:
    with pytest.raises(ConfigError, match="replica: expected letters and digits"):
        ServerSettings(replica=name)
