"""The stages of the checkpoint: tower, language."""

from __future__ import annotations

from antiphon_tiny.omni.geometry import GEOMETRY
from antiphon_tiny.stages import Run, stage

__all__: list[str] = []


@stage("skeleton", "tokenizer and settings of the checkpoint folder")
def skeleton(run: Run) -> None:
    from antiphon_tiny.omni.files import write_skeleton

    write_skeleton(run.folder("skeleton"), GEOMETRY)


@stage("tower", "the vision tower learns to read shapes off pictures")
def tower(run: Run) -> None:
    from antiphon_tiny.omni.tower_training import train_tower

    train_tower(run)


@stage("projector", "the projector learns to say what the tower sees in the LLM's words")
def projector(run: Run) -> None:
    from antiphon_tiny.omni.projector_training import train_projector

    train_projector(run)


@stage("language", "tower, projector and LLM learn to answer typed questions")
def language(run: Run) -> None:
    from antiphon_tiny.omni.language_training import train_language

    train_language(run)


@stage("export-typed", "the checkpoint folder as far as it can see and read: its speech layers are untrained")
def export_typed(run: Run) -> None:
    from antiphon.model.checkpoint.folder import read_config
    from antiphon_tiny.omni.export import export
    from antiphon_tiny.omni.parts import parts_in

    skeleton = run.folder("skeleton")
    text_vocab = read_config(skeleton, load_format="dummy").text_vocab_size
    state = run.folder("language") / "state.pt"
    n = export(dict.fromkeys(parts_in(state), state), skeleton, run.folder("typed"), GEOMETRY, text_vocab)
    print(f"{n / 1e6:.2f} million parameters, of them {_num_seeing(run) / 1e6:.2f} in tower and projector")


@stage("evaluate-typed", "held-out typed questions, asked through the runtime")
def evaluate_typed_questions(run: Run) -> None:
    from antiphon import Engine
    from antiphon_tiny.omni.evaluation import evaluate_typed

    with Engine(run.folder("typed")) as engine:
        evaluate_typed(engine, run.folder("reports") / "typed.json")


def _num_seeing(run: Run) -> int:
    from safetensors import safe_open

    with safe_open(run.folder("typed") / "model.safetensors", "pt") as file:
        names = [name for name in file.keys() if "vision" in name or "mm_projector" in name]  # noqa: SIM118
        return sum(file.get_tensor(name).numel() for name in names)


@stage("hearing", "the bottom layers learn to read units by CTC")
def hearing(run: Run) -> None:
    from antiphon_tiny.omni.hearing_training import train_hearing

    train_hearing(run)


@stage("listening", "the LLM learns to answer spoken questions")
def listening(run: Run) -> None:
    from antiphon_tiny.omni.listening_training import train_listening

    train_listening(run)


@stage("speaking", "the top layers learn to say a text in units")
def speaking(run: Run) -> None:
    from antiphon_tiny.omni.speaking_training import train_speaking

    train_speaking(run)


@stage("together", "all parts learn together")
def together(run: Run) -> None:
    from antiphon_tiny.omni.together_training import train_together

    train_together(run)


@stage("export", "the checkpoint folder")
def export_all(run: Run) -> None:
    from antiphon.model.checkpoint.folder import read_config
    from antiphon_tiny.omni.export import export
    from antiphon_tiny.omni.parts import PARTS

    skeleton = run.folder("skeleton")
    text_vocab = read_config(skeleton, load_format="dummy").text_vocab_size
    state = run.folder("together") / "state.pt"
    n = export(dict.fromkeys(PARTS, state), skeleton, run.folder("stream_omni"), GEOMETRY, text_vocab)
    print(f"{n / 1e6:.2f} million parameters")


@stage("evaluate", "held-out questions, typed and spoken, asked through the runtime; replies as heard")
def evaluate_all(run: Run) -> None:
    from rich.console import Console

    from antiphon_tiny.examination import examine, show

    Console().print(show(examine(run.folder("stream_omni"), run.folder("codec"), run.work)))


@stage("media", "the demo's picture and question, and the ten questions of the test suite")
def media(run: Run) -> None:
    from antiphon_tiny.omni.media import write_demo, write_questions

    write_demo()
    write_questions(run.work)


@stage("pictures", "the packaged model's demo as README shows it")
def pictures(run: Run) -> None:
    from antiphon_tiny.omni.demo_pictures import draw_demo

    draw_demo()
