"""The application that Ray Serve runs: replicas of the engine, and of the codec if it has its own."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from antiphon.config import EngineConfig
from antiphon.errors import ConfigError
from antiphon.plain import kind
from antiphon.scale.ray import ray_serve
from antiphon.scale.settings import ScaleSettings
from antiphon.server.settings import ServerSettings

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from antiphon.engine.arguments import EngineArguments

__all__ = ["CODEC_NAME", "KEY_VARIABLE", "LOGGING", "NAME", "application", "deployment"]

NAME, CODEC_NAME = "Antiphon", "AntiphonCodec"
"""Of the deployments, for `serve.get_deployment_handle` and configuration files."""
MAX_CODEC_REQUESTS = 100
"""Batches that may wait at a replica of the codec, which makes one at a time."""
KEY_VARIABLE = "ANTIPHON_API_KEY"
LOGGING: dict[str, Any] = {"log_level": "WARNING", "enable_access_log": False}
"""Of Serve: each replica writes a line for each answer itself, see `antiphon.server.log`."""
SPARE_REQUESTS = 100
"""What a replica may be asked at a time beside its requests and conversations: its health, what it serves."""
HEALTH_PERIOD_S = 2.0
HEALTH_TIMEOUT_S = 30.0
"""An engine that loads the machine may keep the interpreter for seconds."""
MAX_STARTS = 2
"""How often Serve tries to start a replica that cannot be: a wrong setting is told soon."""
STATS_PERIOD_S = 1.0
LOOK_BACK_S = 15.0
"""What is waited for is averaged over this time."""


def deployment(
    model: str | os.PathLike[str] | None = None,
    *,
    scale: ScaleSettings | None = None,
    server: ServerSettings | None = None,
    **arguments: Unpack[EngineArguments],
) -> Any:
    """A Serve application, for `serve.run`, `serve run MODULE:NAME` or another application's `bind`.

        app = deployment("path/to/model", scale=ScaleSettings(num_replicas=2))

    It answers what `antiphon serve` does. Its handle has `generate` and `stream`, see `Replica`. What the
    server's settings say of host and port is up to Serve; a replica that fails is always replaced.

    Args:
        model: the checkpoint's folder, on every node; None is the packaged model.
        scale: how many replicas there are, what each takes, and how requests reach them.
        server: how it answers.
        arguments: of each engine, see `Engine`.

    Raises:
        ConfigError: Ray Serve is not installed, or settings contradict each other.
    """
    serve = ray_serve()
    from ray.serve.config import AutoscalingConfig, AutoscalingPolicy, RequestRouterConfig

    from antiphon.scale.autoscaling import WaitingAudio
    from antiphon.scale.replica import Replica
    from antiphon.scale.router import ConversationRouter

    scale, server = scale or ScaleSettings(), server or ServerSettings()
    if server.reference is not None:
        raise ConfigError("reference: the ports of the released code cannot be opened by replicas")
    settings: dict[str, Any] = {"num_replicas": scale.num_replicas}
    if scale.max_replicas is not None:
        settings = {
            "autoscaling_config": AutoscalingConfig(
                min_replicas=scale.min_replicas,
                max_replicas=scale.max_replicas,
                target_ongoing_requests=scale.target_requests,
                look_back_period_s=LOOK_BACK_S,
                upscale_delay_s=scale.upscale_delay_s,
                downscale_delay_s=scale.downscale_delay_s,
                policy=AutoscalingPolicy(
                    policy_function=WaitingAudio, policy_kwargs={"target_s": scale.target_waiting_s}
                ),
            )
        }
    made = serve.deployment(
        name=NAME,
        logging_config=LOGGING,
        ray_actor_options=_resources(scale.num_cpus, scale.gpus(arguments.get("device", "auto"))),
        max_ongoing_requests=_most_requests(arguments, server),
        graceful_shutdown_timeout_s=server.drain_timeout_s,
        graceful_shutdown_wait_loop_s=min(1.0, max(0.1, server.drain_timeout_s / 10)),
        health_check_period_s=HEALTH_PERIOD_S,
        health_check_timeout_s=HEALTH_TIMEOUT_S,
        max_constructor_retry_count=MAX_STARTS,
        max_surge_percent=scale.surge_percent,
        request_router_config=RequestRouterConfig(
            request_router_class=ConversationRouter,
            request_router_kwargs={"spill_s": scale.spill_s},
            request_routing_stats_period_s=STATS_PERIOD_S,
        ),
        **settings,
    )(serve.ingress()(Replica))
    own: dict[str, Any] = {"progress": False, **arguments}
    server = replace(server, restart=False)  # Serve's part
    folder = None if model is None else os.fspath(model)
    if not scale.codec_replicas:
        return made.bind(folder, own, server)
    settings = _codec_settings(model, own)
    own["codec"] = settings["folder"]
    return made.bind(folder, own, server, _codec(serve, scale, settings), scale.codec_replicas)


def _codec_settings(model: Any, arguments: Mapping[str, Any]) -> dict[str, Any]:
    """What each replica of the codec loads, see `Vocoding`."""
    from antiphon.assets.embedded import EMBEDDED_CODEC

    codec = arguments.get("codec")
    if codec is None and model is None:
        codec = EMBEDDED_CODEC
    if not isinstance(codec, (str, os.PathLike)):
        raise ConfigError(f"codec_replicas: expected a codec given as a folder, got {kind(codec)}")
    if arguments.get("vocoder_workers"):
        raise ConfigError("vocoder_workers: expected 0 with codec_replicas, which make the speech")
    return {
        "folder": os.fspath(codec),
        "device": str(arguments.get("vocoder_device") or arguments.get("device", "auto")),
        "dtype": arguments.get("codec_dtype", "auto"),
        "backend": arguments.get("vocoder_backend", "torch"),
        "enforce_eager": arguments.get("enforce_eager", EngineConfig.enforce_eager),
        "num_threads": None,
    }


def _codec(serve: Any, scale: ScaleSettings, settings: dict[str, Any]) -> Any:
    from antiphon.scale.codec_replica import CodecReplica

    made = serve.deployment(
        name=CODEC_NAME,
        num_replicas=scale.codec_replicas,
        ray_actor_options=_resources(scale.codec_num_cpus, scale.codec_gpus(settings["device"])),
        max_ongoing_requests=MAX_CODEC_REQUESTS,
        health_check_period_s=HEALTH_PERIOD_S,
        health_check_timeout_s=HEALTH_TIMEOUT_S,
        max_constructor_retry_count=MAX_STARTS,
        max_surge_percent=scale.surge_percent,
        logging_config=LOGGING,
    )(CodecReplica)
    return made.bind(settings)


def _resources(num_cpus: float, num_gpus: float) -> dict[str, Any]:
    """A replica's share of its node. What it computes with follows: Ray tells OpenMP how many cores it may
    use, and CUDA which GPUs it sees."""
    return {"num_cpus": num_cpus, "num_gpus": num_gpus}


def _most_requests(arguments: Mapping[str, Any], server: ServerSettings) -> int:
    """What a replica may be asked at a time: the engine itself says with status 429 that it is full."""
    num_seqs = arguments.get("max_num_seqs", EngineConfig.max_num_seqs)
    num_waiting = arguments.get("max_num_waiting", EngineConfig.max_num_waiting)
    return int(num_seqs) + int(num_waiting) + server.realtime_max_sessions + SPARE_REQUESTS


def application(arguments: Mapping[str, Any]) -> Any:
    """What `deployment` makes, for `import_path: antiphon.scale:application` in Serve's configuration files.

    arguments: "model", and the fields of "scale", "server" and "engine" by name. The key of clients is
    ANTIPHON_API_KEY in the environment, unless "server" has `api_keys`. Raises ConfigError.
    """
    given = dict(arguments)
    model = given.pop("model", None)
    fields = {name: _fields(name, given.pop(name, {})) for name in ("scale", "server", "engine")}
    if given:
        raise ConfigError(f"args: expected model, scale, server and engine, got {next(iter(given))!r}")
    key = os.environ.get(KEY_VARIABLE)
    keys = fields["server"].pop("api_keys", (key,) if key else ())
    try:
        scale, server = (
            ScaleSettings(**fields["scale"]),
            ServerSettings(**fields["server"], api_keys=tuple(keys)),
        )
    except TypeError as error:  # there is no such field
        raise ConfigError(f"args: {error}") from error
    return deployment(model, scale=scale, server=server, **fields["engine"])


def _fields(name: str, given: Any) -> dict[str, Any]:
    if not isinstance(given, Mapping):
        raise ConfigError(f"args: {name}: expected fields and their values, got {given!r}")
    return dict(given)
