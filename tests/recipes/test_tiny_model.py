"""What the embedded model's training computes is what the runtime computes from the exported folder.

Random weights, rounded as the export rounds them: where the two pick another id, logits must be level.
"""

from __future__ import annotations

import random
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from antiphon import Completion, Engine, Image, Message, Request, SamplingParams, Units
from antiphon.sched.speaking import SpeakingState
from antiphon_tiny import stages
from antiphon_tiny.omni import (
    conversations,
    hearing_training,
    language_training,
    listening_training,
    speaking_training,
    spoken,
    windows,
)
from antiphon_tiny.world import exchange, picture, samples

LEVEL = 2e-3


@pytest.fixture(scope="module")
def work(skeleton: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where an untrained model has been exported to `typed`."""
    folder: Path = tmp_path_factory.mktemp("work")
    run = stages.Run(folder)
    registered = stages.all_stages()
    shutil.copytree(skeleton, folder / "skeleton")
    torch.manual_seed(0)
    model = speaking_training.Speaking(run)
    with torch.no_grad():
        for name, parameter in model.omni.named_parameters():
            if "head" in name or "to_text" in name:
                parameter.mul_(10.0)
    (folder / "language").mkdir()
    torch.save({"module": model.state_dict()}, folder / "language" / "state.pt")
    registered["export-typed"].run(run)
    return folder


@pytest.fixture(scope="module")
def engine(work: Path) -> Engine:
    return Engine(work / "typed", load_format="auto")


def rounded(model: Any, work: Path) -> Any:
    """With the weights of the exported folder."""
    state = torch.load(work / "language" / "state.pt", weights_only=True)["module"]
    own = {name.removeprefix("omni."): tensor.half().float() for name, tensor in state.items()}
    model.omni.load_state_dict(own)
    return model.eval()


def same_picks(logits: Tensor, ids: list[int]) -> None:
    assert len(logits) == len(ids)
    picked = logits.gather(1, torch.tensor(ids)[:, None])[:, 0]
    assert (logits.max(-1).values - picked).max() < LEVEL


@pytest.mark.slow
@pytest.mark.long
@pytest.mark.parametrize("pictures", [0.0, 1.0])
def test_typed_conversations(work: Path, engine: Engine, pictures: float) -> None:
    model = rounded(language_training.Answering(stages.Run(work)), work)
    for sample in samples.draw_samples(4, "train", 2, pictures=pictures):
        messages = [Message(role, text) for role, text in sample.messages]
        if sample.scene:
            messages[0] = Message(
                "user", [Image(picture.draw_picture(sample.scene, 320)), sample.messages[0][1]]
            )
        done = engine.generate([Request(messages=messages)], SamplingParams(max_tokens=6))[0]
        branch = model.layout.branch(sample)
        ids = [*branch.ids[: branch.last[0] + 1], *done.text_ids]
        targets = [-100] * branch.last[0] + done.text_ids + [-100]
        said = conversations.Branch(ids, targets, [])
        row = conversations.Row([said], 0 if sample.scene else None)
        tiles = model.pictures.tiles([sample.scene]) if sample.scene else None
        with torch.no_grad():
            logits, _, _ = model.logits(model.layout.batch([row]), tiles)
        same_picks(logits, done.text_ids)


def reply_to(engine: Engine, units: list[int]) -> Completion:
    request = Request([Units(units)], modalities=("text", "audio"))
    params = SamplingParams(max_tokens=12, max_units=30, ignore_eos=True)
    return engine.generate([request], params)[0]


@pytest.mark.slow
def test_spoken_questions_are_heard_and_answered(work: Path, engine: Engine) -> None:
    units = [random.Random(1).randrange(1000) for _ in range(40)]
    done = reply_to(engine, units)
    asked = spoken.Utterance("", units, [])
    heard = rounded(hearing_training.Hearing(stages.Run(work)), work)
    with torch.no_grad():
        assert heard.transcripts([asked]) == [done.transcript]
    model = rounded(listening_training.Listening(stages.Run(work)), work)
    turn = exchange.Exchange("", "", "")
    sample = exchange.Sample((turn,))
    answer = [*done.text_ids]
    encode = model.layout.encode
    model.layout.encode = lambda text: answer if text == "" else encode(text)
    with torch.no_grad():
        logits, _, _ = model.spoken_logits([listening_training.SpokenSample(sample, [asked])], None)
    same_picks(logits[: len(answer)], answer)


@pytest.mark.slow
def test_replies_are_spoken(work: Path, engine: Engine) -> None:
    model = rounded(speaking_training.Speaking(stages.Run(work)), work)
    layout = model.layout
    units = [random.Random(2).randrange(1000) for _ in range(30)]
    done = reply_to(engine, units)
    # An untrained head picks ids of text as well: those are read back like units.
    said = spoken.Utterance("", [i - model.config.first_unit_id for i in done.unit_ids], done.fusion_ids)
    row = spoken.SpokenRow([spoken.Utterance("", units, []), layout.closing, said])
    batch = spoken.track_batch([row], len(model.prefix), model.config.first_unit_id)
    with torch.no_grad():
        prefix, hidden = model.hear(batch)
        labels = model.omni.audio_to_text_proj(hidden).argmax(-1)
        logits, _ = model.unit_logits(batch, prefix, hidden, labels, None)
    same_picks(logits[:-1], done.unit_ids)


def test_windows_are_those_of_the_runtime() -> None:
    rng = random.Random(0)
    for _ in range(300):
        blank, lag, num_entries = 0, rng.randint(1, 4), rng.randint(1, 9)
        labels = [rng.choice((0, 0, 1, 2, 3)) for _ in range(rng.randint(1, 30))]
        text = list(range(10, 10 + num_entries))
        state = SpeakingState(
            blank=blank, eot=text[-1], lag=lag, carries_speech=lambda _: True, text_input=False
        )
        state.consume(text, text_ended=False)
        for label in labels:
            state.read_back(label)
            state.consume(text, text_ended=False)
        counts = windows.visible_counts([*labels, 0], num_entries, blank, lag)
        assert counts == state.visible
