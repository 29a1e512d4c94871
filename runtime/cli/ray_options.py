"""The options of `antiphon serve --ray`, and what they ask for."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, fields
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from antiphon.cli import signals

if TYPE_CHECKING:
    from antiphon.scale.settings import ScaleSettings
    from antiphon.server.settings import ServerSettings

__all__ = [
    "CodecReplicas",
    "CpusPerCodec",
    "CpusPerReplica",
    "GpusPerCodec",
    "GpusPerReplica",
    "MaxReplicas",
    "MinReplicas",
    "Ray",
    "RayAddress",
    "Replicas",
    "Scaling",
    "TargetRequests",
    "TargetWaiting",
    "serve_by_ray",
]

RAY_PANEL = "Replicas, by Ray Serve"
SETTINGS = {
    "replicas": "num_replicas",
    "min_replicas": "min_replicas",
    "max_replicas": "max_replicas",
    "target_waiting_s": "target_waiting_s",
    "target_requests": "target_requests",
    "cpus_per_replica": "num_cpus",
    "gpus_per_replica": "num_gpus",
    "codec_replicas": "codec_replicas",
    "cpus_per_codec": "codec_num_cpus",
    "gpus_per_codec": "codec_num_gpus",
}
"""Names in `ScaleSettings`."""

Ray = Annotated[
    bool,
    typer.Option("--ray", help="Serve by replicas of the engine.", rich_help_panel=RAY_PANEL),
]
RayAddress = Annotated[
    str | None,
    typer.Option(
        metavar="ADDRESS",
        help="Of a Ray cluster that serves, or `auto`. Default: a Ray of its own on this machine.",
        rich_help_panel=RAY_PANEL,
    ),
]
Replicas = Annotated[
    int | None,
    typer.Option(min=1, help="How many there are. Default: 1.", rich_help_panel=RAY_PANEL),
]
MinReplicas = Annotated[
    int | None,
    typer.Option(min=0, help="How few there may be. Default: 1.", rich_help_panel=RAY_PANEL),
]
MaxReplicas = Annotated[
    int | None,
    typer.Option(
        min=1, help="How many there may be: Serve starts and ends them by need.", rich_help_panel=RAY_PANEL
    ),
]
TargetWaiting = Annotated[
    float | None,
    typer.Option(
        min=0.1,
        help="Seconds of speech that may be waited for at a replica before another is started. Default: 10.",
        rich_help_panel=RAY_PANEL,
    ),
]
TargetRequests = Annotated[
    float | None,
    typer.Option(
        min=0.1,
        help="Requests and conversations that a replica is meant to have at a time. Default: 16.",
        rich_help_panel=RAY_PANEL,
    ),
]
CpusPerReplica = Annotated[
    float | None,
    typer.Option(
        min=0.1, help="Cores of a replica, which has as many threads. Default: 1.", rich_help_panel=RAY_PANEL
    ),
]
GpusPerReplica = Annotated[
    float | None,
    typer.Option(
        min=0, help="GPUs of a replica. Default: 1 where it computes on one.", rich_help_panel=RAY_PANEL
    ),
]
CodecReplicas = Annotated[
    int | None,
    typer.Option(
        min=0,
        help="Replicas of the codec, which make the speech of all. Default: 0, each makes its own.",
        rich_help_panel=RAY_PANEL,
    ),
]
CpusPerCodec = Annotated[
    float | None,
    typer.Option(min=0.1, help="Cores of each of these. Default: 1.", rich_help_panel=RAY_PANEL),
]
GpusPerCodec = Annotated[
    float | None,
    typer.Option(min=0, help="GPUs of each of these. Default: as a replica.", rich_help_panel=RAY_PANEL),
]


@dataclass(frozen=True)
class Scaling:
    """What these options were given; None: the default."""

    ray_address: str | None
    replicas: int | None
    min_replicas: int | None
    max_replicas: int | None
    target_waiting_s: float | None
    target_requests: float | None
    cpus_per_replica: float | None
    gpus_per_replica: float | None
    codec_replicas: int | None
    cpus_per_codec: float | None
    gpus_per_codec: float | None

    def check_unused(self) -> None:
        """BadParameter if one was given without --ray."""
        for field in fields(self):
            if getattr(self, field.name) is not None:
                raise typer.BadParameter("needs --ray", param_hint=f"--{field.name.replace('_', '-')}")

    def settings(self) -> ScaleSettings:
        """BadParameter for options that contradict each other."""
        from antiphon.scale.settings import ScaleSettings

        if self.replicas is not None and self.max_replicas is not None:
            raise typer.BadParameter("cannot be combined with --max-replicas", param_hint="--replicas")
        if self.min_replicas is not None and self.max_replicas is None:
            raise typer.BadParameter("needs --max-replicas", param_hint="--min-replicas")
        given = {name: getattr(self, option) for option, name in SETTINGS.items()}
        return ScaleSettings(**{name: value for name, value in given.items() if value is not None})


def serve_by_ray(
    model: Path | None,
    arguments: dict[str, Any],
    settings: ServerSettings,
    ready: Callable[[signals.Note, str], None],
    scaling: Scaling,
) -> bool:
    """Serve until a signal; whether it ended in order. arguments: of the engine."""
    with signals.at_once():
        from antiphon.scale.deployment import deployment
        from antiphon.scale.running import serve_by_ray as run

        folder = None if model is None else os.fspath(model.absolute())  # replicas stand elsewhere
        if arguments["codec"] is not None:
            arguments["codec"] = os.fspath(arguments["codec"].absolute())
        make = partial(deployment, folder, scale=scaling.settings(), server=settings, **arguments)
    with signals.noted(repeats=False) as note:
        in_order = run(
            make,
            settings,
            partial(ready, note),
            lambda: note.number is not None,
            address=scaling.ray_address,
        )
        signals.forget()
    return in_order
