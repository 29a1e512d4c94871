"""The stages of the checkpoint that train nothing."""

from __future__ import annotations

from safetensors import safe_open

from antiphon.model.checkpoint.folder import read_config
from antiphon_tiny.omni.export import export
from antiphon_tiny.omni.files import write_skeleton
from antiphon_tiny.omni.geometry import GEOMETRY
from antiphon_tiny.omni.parts import PARTS, parts_in
from antiphon_tiny.stages import Run

__all__ = ["evaluate_all", "evaluate_typed", "export_all", "export_typed", "media", "pictures", "skeleton"]


def skeleton(run: Run) -> None:
    write_skeleton(run.folder("skeleton"), GEOMETRY)


def export_typed(run: Run) -> None:
    folder, state = run.folder("skeleton"), run.folder("language") / "state.pt"
    n = export(dict.fromkeys(parts_in(state), state), folder, run.folder("typed"), GEOMETRY, _text_vocab(run))
    print(f"{n / 1e6:.2f} million parameters, of them {_num_seeing(run) / 1e6:.2f} in tower and projector")


def _text_vocab(run: Run) -> int:
    return read_config(run.folder("skeleton"), load_format="dummy").text_vocab_size


def _num_seeing(run: Run) -> int:
    with safe_open(run.folder("typed") / "model.safetensors", "pt") as file:
        names = [name for name in file.keys() if "vision" in name or "mm_projector" in name]  # noqa: SIM118
        return sum(file.get_tensor(name).numel() for name in names)


def evaluate_typed(run: Run) -> None:
    from antiphon import Engine
    from antiphon_tiny.omni import evaluation

    with Engine(run.folder("typed")) as engine:
        evaluation.evaluate_typed(engine, run.folder("reports"))


def export_all(run: Run) -> None:
    folder, state = run.folder("skeleton"), run.folder("whole") / "state.pt"
    n = export(dict.fromkeys(PARTS, state), folder, run.folder("stream_omni"), GEOMETRY, _text_vocab(run))
    print(f"{n / 1e6:.2f} million parameters")


def evaluate_all(run: Run) -> None:
    from rich.console import Console

    from antiphon_tiny.examination import examine, show

    Console().print(show(examine(run.folder("stream_omni"), run.folder("codec"), run.work)))


def media(run: Run) -> None:
    from antiphon_tiny.omni.media import write_demo, write_questions

    write_demo()
    write_questions(run.work)


def pictures(run: Run) -> None:
    from antiphon_tiny.omni.demo_pictures import draw_demo

    draw_demo()
