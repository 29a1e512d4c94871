"""What a Stream-Omni checkpoint computes (arXiv 2506.13642): one request, one position at a time.

Plain PyTorch in float64 over the tensors of the file by their released names. No batches, no blocks, no
scheduling, and not a line of the code it is compared with; keys and values are kept, dense, for speed.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from PIL import Image as PilImage
from reference_layers import Layers, Stack
from reference_vision import ReferenceVision
from safetensors.torch import load_file
from tokenizers import Tokenizer
from torch import Tensor

__all__ = ["Answer", "ReferenceModel"]

UNHEARD = re.compile(r"""[^\w\s。，,'.、“”"！？!?]""")


@dataclass
class Answer:
    """A reply and how it came about; the names are those of the golden data."""

    input_ids: list[int] = field(default_factory=list)
    output_ids: list[int] = field(default_factory=list)
    """Units if it speaks, otherwise text; including the stop id."""
    llm_ids: list[int] = field(default_factory=list)
    fusion_ids: list[int] = field(default_factory=list)
    visible_text: list[int] = field(default_factory=list)
    unit_ctc: list[int] = field(default_factory=list)
    asr_ids: list[int] = field(default_factory=list)
    asr_text: str = ""
    text: str = ""
    stopped: bool = False
    num_text_positions: int = 0
    num_speech_positions: int = 0
    first_logits: Tensor | None = None
    """Of the first text token."""
    margin: float = math.inf
    """The smallest distance between the best logit and the next, over every choice that was made."""


class ReferenceModel(Layers):
    """Reads a checkpoint folder and answers one request after the other."""

    def __init__(self, folder: Path) -> None:
        config: dict[str, Any] = json.loads((folder / "config.json").read_text())
        super().__init__(config, read_tensors(folder))
        self.tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
        self.vision = None
        if config.get("mm_vision_tower"):
            if not any("vision_model" in name for name in self.weights):
                tower = read_tensors(folder / config["mm_vision_tower"])
                self.weights |= {f"model.vision_tower.vision_tower.{name}": t for name, t in tower.items()}
            self.vision = ReferenceVision(folder, config, self.weights)
        self.lag: int = config.get("fusion_lag", 3)
        ids = self.tokenizer.get_vocab()
        self.blank = ids["<|reserved_special_token_0|>"]
        self.eot = ids["<|eot_id|>"]
        self.units = range(ids["<Audio_0>"], ids["<Audio_0>"] + config["audio_vocab_size"])
        generation = json.loads((folder / "generation_config.json").read_text())
        stops = generation["eos_token_id"]
        self.stops = {stops} if isinstance(stops, int) else set(stops)

    def answer(
        self,
        system: str,
        messages: Sequence[tuple[str, str]],
        pictures: Sequence[PilImage.Image],
        *,
        speaks: bool,
        limit: int,
    ) -> Answer:
        """`messages`: (role, content), with `<image>` and `<Audio_k>` written out."""
        answer = Answer(input_ids=self.ids(layout(system, messages)))
        conversation = Conversation(self, answer, messages, pictures)
        conversation.reply(system, speaks, limit)
        answer.num_text_positions = conversation.llm.num_positions
        answer.num_speech_positions = conversation.bottom.num_positions
        answer.text = self.tokenizer.decode(answer.llm_ids).strip()
        return answer

    def ids(self, prompt: str) -> list[int]:
        """-200 stands for an image; the text on each side of it is tokenized by itself."""
        ids: list[int] = []
        for i, text in enumerate(prompt.split("<image>")):
            ids += ([-200] if i else []) + self.tokenizer.encode(text, add_special_tokens=False).ids
        return ids

    def is_heard(self, token: int) -> bool:
        text = self.tokenizer.decode([token], skip_special_tokens=False)
        return UNHEARD.sub("", text).strip() != ""

    def collapsed(self, labels: Sequence[int]) -> list[int]:
        pairs = zip(labels, [None, *labels[:-1]], strict=True)
        return [label for label, before in pairs if label not in (before, self.blank)]


class Conversation:
    """One request being served; the results go into `answer`."""

    def __init__(
        self,
        model: ReferenceModel,
        answer: Answer,
        messages: Sequence[tuple[str, str]],
        pictures: Sequence[PilImage.Image],
    ) -> None:
        self.model = model
        self.answer = answer
        self.messages = messages
        self.pictures = pictures
        self.bottom = Stack(model, "bottom_audio_layers", model.config["num_bottom_audio_layers"])
        self.llm = Stack(model, "layers", model.config["num_hidden_layers"])
        self.top = Stack(model, "top_audio_layers", model.config["num_top_audio_layers"])
        self.next_input = torch.empty(0)
        """What the LLM reads before its next choice."""

    def reply(self, system: str, speaks: bool, limit: int) -> None:
        model, answer = self.model, self.answer
        ids = [i for i in answer.input_ids if i >= 0]
        spoken = any(i in model.units for i in ids)
        # If the input is text, speech starts from a prompt of its own.
        hidden = self.hear(ids if spoken else model.ids(layout(system, [("user", " ")])))
        if spoken:
            logits = model.linear("audio_to_text_proj", hidden)
            self.transcribe(ids, logits)
            embedded = logits.softmax(-1) @ model.weights["model.embed_tokens.weight"]
        else:
            embedded = model.weights["model.embed_tokens.weight"][ids]
        self.next_input = self.with_pictures(embedded)
        if speaks:
            self.speak(hidden, limit, text_input=not spoken)
            return
        while len(answer.llm_ids) < limit and not answer.stopped:
            answer.stopped = self.decode_text() in model.stops
        answer.output_ids = answer.llm_ids

    def hear(self, ids: list[int]) -> Tensor:
        """The bottom layers over ids, which follow those heard before: H (positions, hidden)."""
        x = self.model.weights["model.audio_embed_tokens.weight"][ids]
        return self.model.norm("model.audio_norm", self.bottom.run(x))

    def transcribe(self, ids: list[int], logits: Tensor) -> None:
        model = self.model
        labels = [self.choose(row) for row, i in zip(logits, ids, strict=True) if i in model.units]
        self.answer.asr_ids = model.collapsed(labels)
        counts = [content.count("<Audio_") for _, content in self.messages]
        last = [count for count in counts if count][-1]
        self.answer.asr_text = model.tokenizer.decode(model.collapsed(labels[-last:])).strip()

    def with_pictures(self, embedded: Tensor) -> Tensor:
        rows, pictures, parts = iter(embedded), iter(self.pictures), []
        for i in self.answer.input_ids:
            if i >= 0:
                parts.append(next(rows)[None])
            else:
                assert self.model.vision is not None, "this checkpoint takes no pictures"
                parts.append(self.model.vision.features(next(pictures)))
        return torch.cat(parts)

    def decode_text(self) -> int:
        """Generates one more text token."""
        model = self.model
        x = self.llm.run(self.next_input)
        logits = model.linear("lm_head", model.norm("model.norm", x[-1]))
        if self.answer.first_logits is None:
            self.answer.first_logits = logits
        token = self.choose(logits)
        self.next_input = model.weights["model.embed_tokens.weight"][[token]]
        self.answer.llm_ids.append(token)
        if model.is_heard(token):
            self.answer.fusion_ids.append(token)
        return token

    def speak(self, hidden: Tensor, limit: int, *, text_input: bool) -> None:
        model, answer = self.model, self.answer
        last_label = model.blank
        text_ended = False
        while len(answer.fusion_ids) < model.lag and not (text_ended and answer.fusion_ids):
            text_ended = self.decode_text() == model.eot
        while True:
            x = model.norm("model.top_audio_norm", self.top.run(hidden, answer.fusion_ids)[-1])
            unit = self.choose(model.linear("audio_lm_head", x))
            answer.visible_text.append(len(answer.fusion_ids))
            answer.output_ids.append(unit)
            answer.stopped = unit in model.stops
            if answer.stopped or len(answer.output_ids) == limit:
                return
            hidden = self.hear([unit])
            label = self.choose(model.linear("audio_to_text_proj", hidden[0]))
            answer.unit_ctc.append(label)
            if label in (model.blank, last_label):
                continue
            last_label = label
            wanted = max(len(answer.fusion_ids) + 1, model.lag)
            while len(answer.fusion_ids) < wanted and not text_ended:
                if text_input and answer.fusion_ids[-1] in (model.eot, model.blank):
                    break
                text_ended = self.decode_text() == model.eot

    def choose(self, logits: Tensor) -> int:
        best = logits.topk(2).values
        self.answer.margin = min(self.answer.margin, float(best[0] - best[1]))
        return int(logits.argmax())


def layout(system: str, messages: Sequence[tuple[str, str]]) -> str:
    """The Llama 3 chat layout with an open assistant header."""
    opening = [("system", system)] if system else []
    turns = [
        f"<|start_header_id|>{role}<|end_header_id|>\n\n{content}<|eot_id|>"
        for role, content in [*opening, *messages]
    ]
    return "<|begin_of_text|>" + "".join(turns) + "<|start_header_id|>assistant<|end_header_id|>\n\n"


def read_tensors(folder: Path) -> dict[str, Tensor]:
    """All tensors of a folder in float64."""
    tensors: dict[str, Tensor] = {}
    for file in sorted(folder.glob("*.safetensors")):
        tensors |= load_file(file)
    return {name: tensor.double() for name, tensor in tensors.items()}
