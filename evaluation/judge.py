"""A language model that scores answers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from antiphon.evaluation.cases import Case
from antiphon.evaluation.extras import needed
from antiphon.evaluation.rubrics import Rubric

__all__ = ["Judge", "Judgement"]

TIMEOUT_S = 120.0


@dataclass(frozen=True)
class Judgement:
    prompt: str
    raw: str
    """Its answer, or why there is none"""
    score: float | None
    """None if the answer holds none"""
    whole: float = 1.0
    """What the score is a share of, where the judge scores another answer beside: that one's"""


class Judge:
    """Any server of OpenAI's chat completions."""

    def __init__(self, url: str, model: str, api_key: str | None) -> None:
        openai = needed("openai", "--judge")
        self._errors: type[Exception] = openai.OpenAIError
        self._client: Any = openai.OpenAI(base_url=url, api_key=api_key or "none", timeout=TIMEOUT_S)
        self._model = model

    def __call__(self, rubric: Rubric, case: Case, answer: str) -> Judgement:
        prompt = rubric.prompt(case, answer)
        messages = [{"role": "system", "content": rubric.system}] if rubric.system else []
        messages.append({"role": "user", "content": prompt})
        try:
            done = self._client.chat.completions.create(model=self._model, messages=messages, temperature=0.0)
            raw = done.choices[0].message.content or ""
        except self._errors as error:
            return Judgement(prompt, f"{type(error).__name__}: {error}", None)
        found = rubric.read(raw)
        return Judgement(prompt, raw, None) if found is None else Judgement(prompt, raw, *found)
