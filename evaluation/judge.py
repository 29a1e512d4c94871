"""A language model that scores answers from 1 to 5, as the paper has SpokenVisIT judged (appendix B)."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

from antiphon.evaluation.extras import needed

__all__ = ["PROMPT", "Judge", "Judgement", "score_in"]

PROMPT = """\
I need your assistance in evaluating the performance of several models in a vision-based speech interaction \
scenario. These models process the user's spoken input and generate spoken responses. For evaluation \
purposes, both the user's speech input and the model's speech output have been transcribed into text using \
Automatic Speech Recognition (ASR). Additionally, a brief image caption is provided to help you understand \
the visual context of the conversation. Your task is to assess the model's responses based on the given \
visual context [Image Caption], the transcribed user input [Instruction], and the transcribed model output \
[Response]. Please evaluate the responses considering factors such as helpfulness, responsiveness, empathy, \
and suitability for real-world multimodal interaction, and assign a single score on a scale from 1 to 5.

Below are the image caption and the transcriptions of the user's instruction and the model's response:
### [Image Caption]: {caption}
### [Instruction]: {question}
### [Response]: {answer}

After evaluating, please output the scores in JSON format: {{score: ...}}. You don't need to provide any \
explanations."""
"""The paper's"""
SCORE = re.compile(r"score[\"']?\s*[:=]\s*[\"']?([0-9]+(?:\.[0-9]+)?)", re.IGNORECASE)
BARE = re.compile(r"^\W*([1-5](?:\.[0-9]+)?)\W*$")
TIMEOUT_S = 120.0


@dataclass(frozen=True)
class Judgement:
    prompt: str
    raw: str
    """Its answer, or why there is none"""
    score: float | None
    """From 1 to 5; None if the answer holds none"""


class Judge:
    """Any server of OpenAI's chat completions."""

    def __init__(self, url: str, model: str, api_key: str | None) -> None:
        openai = needed("openai", "--judge")
        self._errors: type[Exception] = openai.OpenAIError
        self._client: Any = openai.OpenAI(base_url=url, api_key=api_key or "none", timeout=TIMEOUT_S)
        self._model = model

    def __call__(self, caption: str, question: str, answer: str) -> Judgement:
        prompt = PROMPT.format(caption=caption or "(none)", question=question, answer=answer)
        try:
            done = self._client.chat.completions.create(
                model=self._model, messages=[{"role": "user", "content": prompt}], temperature=0.0
            )
            raw = done.choices[0].message.content or ""
        except self._errors as error:
            return Judgement(prompt, f"{type(error).__name__}: {error}", None)
        return Judgement(prompt, raw, score_in(raw))


def score_in(raw: str) -> float | None:
    """The score of an answer such as {"score": 4}, or of one that is a number alone."""
    found = SCORE.search(raw) or BARE.match(raw)
    score = float(found[1]) if found else 0.0
    return score if 1 <= score <= 5 else None
