"""The stages of the recipe, and what each of them is given."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from pkgutil import resolve_name

__all__ = ["Run", "Stage", "all_stages"]


@dataclass(frozen=True)
class Run:
    """Where a stage works and from which seed."""

    work: Path
    """Everything generated lies below it."""
    seed: int = 0
    num_threads: int = 1
    num_steps: int | None = None
    """Of a training; None: the stage's own number."""

    def folder(self, name: str) -> Path:
        """A folder below `work`, made if it is not there."""
        path = self.work / name
        path.mkdir(parents=True, exist_ok=True)
        return path


@dataclass(frozen=True)
class Stage:
    name: str
    about: str
    function: str
    """MODULE:NAME below `antiphon_tiny`, of a function that takes a `Run`. It goes on where it was
    interrupted, and does nothing if all is done."""

    def run(self, arguments: Run) -> None:
        """The module is imported only now: most need packages that other stages do without."""
        resolve_name(f"antiphon_tiny.{self.function}")(arguments)


_STAGES = {
    "speech-data": ("speak all sentences with all voices", "speech.build_data:build_all"),
    "units": ("train the unit encoder", "speech.train_units:train"),
    "ears": ("train what hears the same units in all voices, on Whisper's states", "speech.train_ears:train"),
    "encode": ("what the speaking voice says, as units", "speech.encode:encode_spoken"),
    "encode-heard": ("all voices in rooms and noise as units, by the ears", "speech.encode:encode_heard"),
    "pitch": ("train the vocoder's pitch predictor", "speech.train_vocoder:train_pitch"),
    "flow": ("train the flow from units to mel", "speech.train_flow:train"),
    "vocoder": ("train the vocoder on true mels", "speech.train_vocoder:train"),
    "vocoder-tuned": ("train the vocoder on the flow's mels", "speech.train_vocoder:tune"),
    "codec": ("write the codec folder", "speech.codec_folder:export"),
    "evaluate-speech": (
        "what is understood of speech that went through units, and how it sounds",
        "speech.evaluate:evaluate",
    ),
    "skeleton": ("tokenizer and settings of the checkpoint folder", "omni.stages:skeleton"),
    "tower": ("the vision tower learns to read shapes off pictures", "omni.tower_training:train_tower"),
    "projector": (
        "the projector learns to say what the tower sees in the LLM's words",
        "omni.projector_training:train_projector",
    ),
    "language": (
        "tower, projector and LLM learn to answer typed questions",
        "omni.language_training:train_language",
    ),
    "export-typed": (
        "the checkpoint folder of a model that sees and reads: its speech layers are untrained",
        "omni.stages:export_typed",
    ),
    "evaluate-typed": ("held-out typed questions, asked through the runtime", "omni.stages:evaluate_typed"),
    "hearing": ("the bottom layers learn to read units by CTC", "omni.hearing_training:train_hearing"),
    "listening": ("the LLM learns to answer spoken questions", "omni.listening_training:train_listening"),
    "speaking": ("the top layers learn to say a text in units", "omni.speaking_training:train_speaking"),
    "together": ("all parts learn together", "omni.together_training:train_together"),
    "wider-data": (
        "speak in many wordings and in words of all kinds, as units",
        "speech.wider_data:build_wider",
    ),
    "wider": (
        "all parts learn many wordings, names, words of all kinds, other drawings",
        "omni.wider_training:train_wider",
    ),
    "mixed": ("the weights between those of `together` and `wider`", "omni.mixing:mix"),
    "hearing-wider": (
        "the bottom layers go on learning the wider world's words",
        "omni.wider_hearing:train_wider_hearing",
    ),
    "thinking-wider": (
        "the LLM goes on learning the wider world's questions",
        "omni.wider_thinking:train_wider_thinking",
    ),
    "whole": ("the parts of the last trainings as one state", "omni.whole:assemble"),
    "export": ("the checkpoint folder", "omni.stages:export_all"),
    "evaluate": (
        "held-out questions, typed and spoken, asked through the runtime; replies as heard",
        "omni.stages:evaluate_all",
    ),
    "media": (
        "the demo's picture and question, and the ten questions of the test suite",
        "omni.stages:media",
    ),
    "pictures": ("the packaged model's demo as README shows it", "omni.stages:pictures"),
}
"""By name, in the order in which `make.py all` runs them: what each is about, and its function."""


def all_stages() -> dict[str, Stage]:
    """By name, in the order in which they are run."""
    return {name: Stage(name, about, function) for name, (about, function) in _STAGES.items()}
