"""`antiphon serve`: the engine behind HTTP."""

from __future__ import annotations

import os
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from antiphon.cli import options, ray_options, signals
from antiphon.cli.spinner import Spinner
from antiphon.cli.streams import say, show_error
from antiphon.config import EngineConfig
from antiphon.errors import ConfigError

if TYPE_CHECKING:
    from antiphon.aio.async_engine import AsyncEngine

__all__ = ["serve"]

SERVER_PANEL = "Server"
REFERENCE_PANEL = "Ports of the released code"
KEY_VARIABLE = "ANTIPHON_API_KEY"
NO_EXTRA = "antiphon serve needs the extra: pip install 'antiphon[serve]'"


def serve(
    host: Annotated[
        str, typer.Option(help="Address to listen on; 0.0.0.0 is every one.", rich_help_panel=SERVER_PANEL)
    ] = "127.0.0.1",
    port: Annotated[
        int, typer.Option(min=0, max=65535, help="0 takes any that is free.", rich_help_panel=SERVER_PANEL)
    ] = 8000,
    api_key: Annotated[
        list[str] | None,
        typer.Option(
            metavar="KEY",
            help=f"Key that clients must send; may be given several times. Default: {KEY_VARIABLE}.",
            rich_help_panel=SERVER_PANEL,
        ),
    ] = None,
    served_model_name: Annotated[
        str | None,
        typer.Option(
            metavar="NAME", help="Name of the model. Default: its folder's.", rich_help_panel=SERVER_PANEL
        ),
    ] = None,
    allowed_media_domains: Annotated[
        list[str] | None,
        typer.Option(
            metavar="HOST",
            help="Host that pictures may be fetched from; may be given several times.",
            rich_help_panel=SERVER_PANEL,
        ),
    ] = None,
    allowed_origins: Annotated[
        list[str] | None,
        typer.Option(
            metavar="ORIGIN",
            help="Origin whose pages may call the server; may be given several times.",
            rich_help_panel=SERVER_PANEL,
        ),
    ] = None,
    max_body_mb: Annotated[
        int, typer.Option(min=1, help="Largest body of a request, in MiB.", rich_help_panel=SERVER_PANEL)
    ] = 64,
    request_timeout_s: Annotated[
        float,
        typer.Option(min=0.1, help="Longest time that a request may take.", rich_help_panel=SERVER_PANEL),
    ] = 600.0,
    send_timeout_s: Annotated[
        float,
        typer.Option(
            min=0.1,
            help="How long a client may read nothing of its answer before it counts as gone.",
            rich_help_panel=SERVER_PANEL,
        ),
    ] = 60.0,
    drain_timeout_s: Annotated[
        float,
        typer.Option(min=0, help="How long SIGTERM waits for requests.", rich_help_panel=SERVER_PANEL),
    ] = 30.0,
    audio_expiry_s: Annotated[
        float,
        typer.Option(
            min=0.1, help="How long a spoken reply can be referred to.", rich_help_panel=SERVER_PANEL
        ),
    ] = 3600.0,
    max_kept_audio_mb: Annotated[
        int,
        typer.Option(
            min=0, help="What these replies may take, in MiB; the oldest go.", rich_help_panel=SERVER_PANEL
        ),
    ] = 256,
    realtime_max_sessions: Annotated[
        int,
        typer.Option(min=1, help="Conversations by voice at a time.", rich_help_panel=SERVER_PANEL),
    ] = 64,
    realtime_session_s: Annotated[
        float,
        typer.Option(min=1, help="How long a conversation by voice may last.", rich_help_panel=SERVER_PANEL),
    ] = 3600.0,
    realtime_resume_s: Annotated[
        float,
        typer.Option(
            min=0, help="How long it waits for a client that was cut off.", rich_help_panel=SERVER_PANEL
        ),
    ] = 20.0,
    realtime_max_message_mb: Annotated[
        int,
        typer.Option(min=1, help="Largest event on its WebSocket, in MiB.", rich_help_panel=SERVER_PANEL),
    ] = 16,
    restart: Annotated[
        bool,
        typer.Option(
            "--restart",
            help="Load a fresh engine if one fails, instead of ending.",
            rich_help_panel=SERVER_PANEL,
        ),
    ] = False,
    log_format: Annotated[
        str, typer.Option(metavar="text|json", help="How logs are written.", rich_help_panel=SERVER_PANEL)
    ] = "text",
    reference_ports: Annotated[
        bool,
        typer.Option(
            "--reference-ports",
            help="Open the ports that the released code's clients use.",
            rich_help_panel=REFERENCE_PANEL,
        ),
    ] = False,
    controller_port: Annotated[
        int,
        typer.Option(
            min=0,
            max=65535,
            help="Of the controller; 0 takes any that is free.",
            rich_help_panel=REFERENCE_PANEL,
        ),
    ] = 10000,
    codec_worker_port: Annotated[
        int, typer.Option(min=0, max=65535, help="Of the codec worker.", rich_help_panel=REFERENCE_PANEL)
    ] = 21003,
    worker_port: Annotated[
        int, typer.Option(min=0, max=65535, help="Of the model worker.", rich_help_panel=REFERENCE_PANEL)
    ] = 40000,
    wav_dir: Annotated[
        Path | None,
        typer.Option(
            metavar="FOLDER",
            help="Where the codec worker writes speech. Default: a folder that is removed at the end.",
            rich_help_panel=REFERENCE_PANEL,
        ),
    ] = None,
    allow_external_workers: Annotated[
        bool,
        typer.Option(
            "--allow-external-workers",
            help="Let workers register; requests are then sent to any URL that a client registers.",
            rich_help_panel=REFERENCE_PANEL,
        ),
    ] = False,
    ray: ray_options.Ray = False,
    ray_address: ray_options.RayAddress = None,
    replicas: ray_options.Replicas = None,
    min_replicas: ray_options.MinReplicas = None,
    max_replicas: ray_options.MaxReplicas = None,
    target_waiting_s: ray_options.TargetWaiting = None,
    target_requests: ray_options.TargetRequests = None,
    cpus_per_replica: ray_options.CpusPerReplica = None,
    gpus_per_replica: ray_options.GpusPerReplica = None,
    codec_replicas: ray_options.CodecReplicas = None,
    cpus_per_codec: ray_options.CpusPerCodec = None,
    gpus_per_codec: ray_options.GpusPerCodec = None,
    model: options.ModelFolder = None,
    codec: options.CodecFolder = None,
    device: options.Device = "auto",
    dtype: options.Dtype = "auto",
    codec_dtype: options.CodecDtype = "auto",
    vocoder_backend: options.VocoderBackend = "torch",
    vocoder_workers: options.VocoderWorkers = 0,
    vocoder_device: options.VocoderDevice = None,
    text_backend: options.TextBackend = "native",
    text_backend_arg: options.TextBackendArg = None,
    quantization: options.Quantization = None,
    quantization_keep: options.QuantizationKeep = None,
    kv_cache_dtype: options.KVCacheDtype = EngineConfig.kv_cache_dtype,
    attention_backend: options.AttentionBackend = EngineConfig.attention_backend,
    block_size: options.BlockSize = EngineConfig.block_size,
    max_model_len: Annotated[
        int | None,
        typer.Option(min=2, help="Longest sequence, in positions.", rich_help_panel=options.MODEL_PANEL),
    ] = None,
    max_num_seqs: Annotated[
        int,
        typer.Option(min=1, help="Requests computed at a time.", rich_help_panel=options.MODEL_PANEL),
    ] = EngineConfig.max_num_seqs,
    max_num_waiting: Annotated[
        int,
        typer.Option(
            min=1, help="Requests that may wait; more get status 429.", rich_help_panel=options.MODEL_PANEL
        ),
    ] = EngineConfig.max_num_waiting,
    unit_head: Annotated[
        str,
        typer.Option(
            metavar="all|units",
            help="What units are picked from: all ids of the unit head, or units and stop ids alone, which "
            "reads less.",
            rich_help_panel=options.MODEL_PANEL,
        ),
    ] = EngineConfig.unit_head,
) -> None:
    """Serve the OpenAI API until Ctrl-C or SIGTERM.

    Without --model, the small packaged model is served.
    """
    options.check_codec(model, codec)
    with signals.at_once():
        try:
            from antiphon.server.log import logs_written
            from antiphon.server.running import serve as run
            from antiphon.server.settings import ReferenceSettings, ServerSettings
        except ModuleNotFoundError as error:
            raise ConfigError(f"{NO_EXTRA} ({error})") from error
    scaling = ray_options.Scaling(
        ray_address,
        replicas,
        min_replicas,
        max_replicas,
        target_waiting_s,
        target_requests,
        cpus_per_replica,
        gpus_per_replica,
        codec_replicas,
        cpus_per_codec,
        gpus_per_codec,
    )
    if not ray:
        scaling.check_unused()
    elif reference_ports:
        raise typer.BadParameter("cannot be combined with --ray", param_hint="--reference-ports")
    if api_key is None and KEY_VARIABLE in os.environ:
        api_key = [os.environ[KEY_VARIABLE]]
    reference = None
    if reference_ports:
        reference = ReferenceSettings(
            controller_port, codec_worker_port, worker_port, wav_dir, allow_external_workers
        )
    elif wav_dir is not None or allow_external_workers:
        hint = "--wav-dir" if wav_dir is not None else "--allow-external-workers"
        raise typer.BadParameter("needs --reference-ports", param_hint=hint)
    settings = ServerSettings(
        host=host,
        port=port,
        api_keys=tuple(api_key or ()),
        served_model_name=served_model_name,
        allowed_media_domains=tuple(allowed_media_domains or ()),
        allowed_origins=tuple(allowed_origins or ()),
        max_body_bytes=max_body_mb << 20,
        request_timeout_s=request_timeout_s,
        send_timeout_s=send_timeout_s,
        drain_timeout_s=drain_timeout_s,
        audio_expiry_s=audio_expiry_s,
        max_kept_audio_bytes=max_kept_audio_mb << 20,
        realtime_max_sessions=realtime_max_sessions,
        realtime_session_s=realtime_session_s,
        realtime_resume_s=realtime_resume_s,
        realtime_max_message_bytes=realtime_max_message_mb << 20,
        restart=restart,
        log_format=log_format,
        reference=reference,
    )
    engine_settings: dict[str, Any] = {
        "vocoder_workers": vocoder_workers,
        "vocoder_device": vocoder_device,
        "text_backend": text_backend,
        "text_backend_args": options.text_backend_args(text_backend, text_backend_arg),
        "quantization": quantization,
        "quantization_keep": quantization_keep or (),
        "kv_cache_dtype": kv_cache_dtype,
        "attention_backend": attention_backend,
        "block_size": block_size,
        "max_num_seqs": max_num_seqs,
        "max_num_waiting": max_num_waiting,
        "unit_head": unit_head,
    }
    if max_model_len is not None:
        engine_settings["max_model_len"] = max_model_len
    engine_settings |= {
        "codec": codec,
        "device": device,
        "dtype": dtype,
        "codec_dtype": codec_dtype,
        "vocoder_backend": vocoder_backend,
    }
    if ray:
        in_order = ray_options.serve_by_ray(
            model, engine_settings, settings, partial(_show, model is None), scaling
        )
    else:
        load = partial(_load, model, engine_settings)
        # While the engine loads, a signal ends it at once; then one asks it to drain, and a second ends it.
        with logs_written(log_format), signals.noted(repeats=False) as note:
            in_order = run(load, settings, partial(_show, model is None, note), _show_site, signals.end)
            signals.forget()
    if not in_order:
        raise typer.Exit(1)


def _load(model: Path | None, arguments: dict[str, Any]) -> AsyncEngine:
    from antiphon.aio.async_engine import AsyncEngine

    with Spinner(options.loading(model)) as spinner:
        return AsyncEngine(model, progress=spinner.advance, **arguments)


def _show(is_packaged: bool, note: signals.Note, address: str) -> None:
    if note.number is not None:  # it came before the server took signals
        signals.end(note.number)
    if is_packaged:
        from antiphon.assets.embedded import EMBEDDED_WORLD

        show_error(f"no --model: {EMBEDDED_WORLD}")
    say(f"serving at {address}")


def _show_site(name: str, address: str) -> None:
    say(f"{name} at {address}")
