"""Trained parts that stay with the recipe."""

from __future__ import annotations

import random
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from antiphon import Engine
from antiphon_tiny import kept, stages, training
from antiphon_tiny.omni import evaluation
from antiphon_tiny.speech import train_units, train_vocoder


class Model(nn.Module):
    """Of the whole model, "omni", one half is trained; the reader beside it is trained as well."""

    def __init__(self) -> None:
        super().__init__()
        self.omni = nn.ModuleDict({"trained": nn.Linear(3, 2), "other": nn.Linear(3, 2)})
        self.reader = nn.Linear(2, 1)
        self.omni["other"].requires_grad_(False)

    def losses(self, step: int, rng: random.Random) -> training.Losses:
        return training.Losses({"loss": self.reader(self.omni["trained"](torch.ones(3))).square().sum()})


def trained(folder: Path, num_steps: int = 4) -> tuple[Any, Model]:
    model = Model()
    return training.Training(model, folder, training.Schedule(num_steps, 0.1), log_every=1), model


@pytest.mark.slow
def test_what_was_trained_comes_back(tmp_path: Path) -> None:
    run, other = stages.Run(tmp_path / "work"), stages.Run(tmp_path / "other")
    loop, model = trained(run.folder("language"))
    loop.run(model.losses)
    kept.keep(run, "language", tmp_path / "kept")
    assert kept.restore(other, tmp_path / "kept") == ["language"]
    state = torch.load(other.work / "language" / "state.pt", weights_only=True)
    wanted = {name: tensor for name, tensor in model.state_dict().items() if "other" not in name}
    assert state["module"].keys() == wanted.keys()
    for name, tensor in wanted.items():
        torch.testing.assert_close(state["module"][name], tensor, rtol=1e-3, atol=1e-3)
    assert [row["loss"] for row in state["history"]] == [row["loss"] for row in loop.history]
    assert (other.work / "language" / "losses.png").is_file()


@pytest.mark.slow
def test_what_was_restored_can_be_kept_again(tmp_path: Path) -> None:
    run, other = stages.Run(tmp_path / "work"), stages.Run(tmp_path / "other")
    loop, model = trained(run.folder("language"))
    loop.run(model.losses)
    kept.keep(run, "language", tmp_path / "kept")
    kept.restore(other, tmp_path / "kept")
    kept.keep(other, "language", tmp_path / "again")
    one, two = (tmp_path / name / "language" / "weights.safetensors" for name in ("kept", "again"))
    assert load_file(one).keys() == load_file(two).keys()
    for name, tensor in load_file(one).items():
        assert torch.equal(tensor, load_file(two)[name])


@pytest.mark.slow
def test_of_a_stage_that_another_went_on_with_only_the_losses_are_kept(tmp_path: Path) -> None:
    run, other = stages.Run(tmp_path / "work"), stages.Run(tmp_path / "other")
    loop, model = trained(run.folder("language"))
    loop.run(model.losses)
    assert kept.keep(run, "language", tmp_path / "kept") > 0
    assert kept.keep(run, "language", tmp_path / "kept", only_losses=True) == 0
    assert {path.name for path in (tmp_path / "kept" / "language").iterdir()} == {"losses.json", "losses.png"}
    assert kept.restore(other, tmp_path / "kept") == []
    assert not (other.work / "language").exists()


def test_a_restored_training_is_finished(tmp_path: Path) -> None:
    run, other = stages.Run(tmp_path / "work"), stages.Run(tmp_path / "other")
    loop, model = trained(run.folder("language"))
    loop.run(model.losses)
    kept.keep(run, "language", tmp_path / "kept")
    kept.restore(other, tmp_path / "kept")
    again, same = trained(other.folder("language"))

    def never(step: int, rng: random.Random) -> training.Losses:
        raise AssertionError

    again.run(never)
    torch.testing.assert_close(same.reader.weight, model.reader.weight, rtol=1e-3, atol=1e-3)


def test_trainings_that_are_there_are_left_alone(tmp_path: Path) -> None:
    run = stages.Run(tmp_path / "work")
    loop, model = trained(run.folder("language"))
    loop.run(model.losses)
    kept.keep(run, "language", tmp_path / "kept")
    before = (run.work / "language" / "state.pt").read_bytes()
    assert kept.restore(run, tmp_path / "kept") == []
    assert (run.work / "language" / "state.pt").read_bytes() == before


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The file that a package would have of the model that `trained` trains."""
    path = tmp_path / "model.safetensors"
    monkeypatch.setitem(kept.PACKAGED, "language", path)
    return path


@pytest.mark.slow
def test_what_the_package_holds_is_read_from_there(tmp_path: Path, package: Path) -> None:
    run, other = stages.Run(tmp_path / "work"), stages.Run(tmp_path / "other")
    loop, model = trained(run.folder("language"))
    loop.run(model.losses)
    exported = {name: tensor.half() for name, tensor in model.omni["trained"].state_dict().items()}
    save_file({f"trained.{name}": tensor for name, tensor in exported.items()}, package)
    kept.keep(run, "language", tmp_path / "kept")
    left = load_file(tmp_path / "kept" / "language" / "weights.safetensors")
    assert left.keys() == {"reader.weight", "reader.bias"}
    assert kept.restore(other, tmp_path / "kept") == ["language"]
    state = torch.load(other.work / "language" / "state.pt", weights_only=True)["module"]
    assert state.keys() == left.keys() | {"omni.trained.weight", "omni.trained.bias"}
    assert torch.equal(state["omni.trained.weight"], exported["weight"].float())


@pytest.mark.slow
def test_a_package_that_is_another_is_refused(tmp_path: Path, package: Path) -> None:
    run = stages.Run(tmp_path / "work")
    loop, model = trained(run.folder("language"))
    loop.run(model.losses)
    exported = {f"trained.{name}": t.half() for name, t in model.omni["trained"].state_dict().items()}
    save_file(exported, package)
    kept.keep(run, "language", tmp_path / "kept")
    save_file({name: tensor + 1 for name, tensor in exported.items()}, package)
    with pytest.raises(ValueError, match="is not the file that it was kept beside"):
        kept.restore(stages.Run(tmp_path / "other"), tmp_path / "kept")


@pytest.mark.parametrize("name", kept.PACKAGED)
def test_nothing_that_the_package_holds_is_kept_twice(name: str) -> None:
    assert (kept.KEPT / name / "weights.safetensors").stat().st_size < 10_000


def test_a_stage_that_has_not_run_cannot_be_kept(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"tower/state\.pt: expected the state"):
        kept.keep(stages.Run(tmp_path), "tower", tmp_path / "kept")


@pytest.mark.slow
@pytest.mark.long
def test_the_kept_model_answers_questions_that_it_has_not_seen(skeleton: Path, tmp_path: Path) -> None:
    run = stages.Run(tmp_path)
    registered = stages.all_stages()
    shutil.copytree(skeleton, tmp_path / "skeleton")
    kept.restore(run)
    registered["export"].run(run)
    with Engine(tmp_path / "stream_omni") as engine:
        shares = evaluation.evaluate_typed(engine, tmp_path / "typed.json", num_samples=60)
    assert shares["pictures"] >= 85
    assert shares["talk"] >= 95


def test_kept_parts_of_the_codec_are_whole(tmp_path: Path) -> None:
    run = stages.Run(tmp_path)
    assert kept.restore(run) == ["ears", "flow", "hearing-wider", "units", "vocoder-tuned", "whole"]
    train_units.load_trained(tmp_path / "units")
    train_vocoder.load_into(train_vocoder.new_vocoder(), tmp_path / "vocoder-tuned")
