"""The golden requests: what the released model code answered on a tiny random checkpoint."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from antiphon import Completion, Image, Request, SamplingParams, Units

GOLDEN = Path(__file__).parents[1] / "golden" / "omni_a"


@dataclass(frozen=True)
class Case:
    name: str
    data: dict[str, Any]

    @property
    def speaks(self) -> bool:
        return bool(self.data["mode"].endswith("speech"))

    def request(self, request_id: str | None = None) -> Request:
        """The user's content as parts: pictures first, then units or text."""
        user = self.data["user"].replace("<image>\n", "")
        units = [int(k) for k in re.findall(r"<Audio_(\d+)>", user)]
        images = [Image(GOLDEN / "images" / f"{name}.png") for name in self.data["images"]]
        modalities = ("text", "audio") if self.speaks else ("text",)
        return Request(
            [*images, Units(units) if units else user],
            modalities=modalities,
            request_id=request_id,
            sampling_params=self.params(),
        )

    def params(self) -> SamplingParams:
        limit = self.data["max_new_tokens"]
        return SamplingParams(max_units=limit) if self.speaks else SamplingParams(max_tokens=limit)

    def differences(self, done: Completion) -> list[str]:
        """Names of the fields in which a completion differs from the golden one."""
        expected: dict[str, Any] = {
            "unit_ids" if self.speaks else "text_ids": self.data["output_ids"],
            "text": self.data["text"],
            "finish_reason": "stop" if self.data["stopped"] else "length",
        }
        if self.speaks:
            expected |= {"text_ids": self.data["llm_ids"], "fusion_ids": self.data["fusion_ids"]}
        if "asr_ids" in self.data:
            expected |= {"transcript_ids": self.data["asr_ids"], "transcript": self.data["asr_text"]}
        return [name for name, value in expected.items() if getattr(done, name) != value]


@cache
def cases() -> tuple[Case, ...]:
    data = json.loads((GOLDEN / "cases.json").read_text(encoding="utf-8"))
    return tuple(Case(case["name"], case) for case in data["cases"])
