"""`--text-backend` and `--text-backend-arg`: what an engine gets of them."""

from __future__ import annotations

import pytest
from typer import BadParameter

from antiphon.cli.options import text_backend_args


def test_values_are_json_or_else_strings() -> None:
    given = ["python=/a b/python", "tensor_parallel_size=2", "enforce_eager=true", "env.A=1", "env.B=c=d"]
    assert text_backend_args("vllm", given) == {
        "python": "/a b/python",
        "tensor_parallel_size": 2,
        "enforce_eager": True,
        "env": {"A": "1", "B": "c=d"},
    }
    assert text_backend_args("vllm", None) == {}
    assert text_backend_args("native", None) is None
    assert text_backend_args("native", ["seed=3"]) == {"seed": 3}, "which the engine refuses"


@pytest.mark.parametrize("given", ["python", "=3", ""])
def test_what_has_no_name_or_value_is_refused(given: str) -> None:
    with pytest.raises(BadParameter, match="expected KEY=VALUE, got"):
        text_backend_args("vllm", [given])
