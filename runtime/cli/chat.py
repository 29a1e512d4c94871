"""`antiphon chat`: a conversation, line by line, from a terminal or a pipe."""

from __future__ import annotations

import re
import sys
from contextlib import ExitStack
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from antiphon.cli import options, signals
from antiphon.cli.generate import run
from antiphon.cli.inputs import check_texts
from antiphon.cli.lines import check_text, lines
from antiphon.cli.microphone import Microphone
from antiphon.cli.options import Modalities
from antiphon.cli.sound_file import Written, write_sound
from antiphon.cli.speaker import Speaker
from antiphon.cli.streams import one_line, say, show_error
from antiphon.cli.terminal import EventPrinter
from antiphon.cli.typed_file import read_typed_file
from antiphon.config import EngineConfig, InputLimits
from antiphon.errors import AntiphonError, EngineDead, InvalidRequest
from antiphon.files.writing import check_writable
from antiphon.types import Completion, Image, Message, Part, Request, SamplingParams, Speech

if TYPE_CHECKING:
    from antiphon.engine.engine import Engine

__all__ = ["chat"]

HELP = """\
a line of text   ask this question
/image FILE      show a picture with the next question
/audio FILE      ask by speech
/clear           forget the conversation
/quit            leave; the end of the input does the same
Ctrl-C           stop a reply; twice at the prompt, leave"""


class Turns(str, Enum):
    """What ends a spoken question."""

    SERVER_VAD = "server_vad"
    SEMANTIC_VAD = "semantic_vad"
    NONE = "none"


def chat(
    mic: Annotated[
        bool,
        typer.Option(
            "--mic", help="Talk: ask by voice, hear the replies.", rich_help_panel=options.SOUND_PANEL
        ),
    ] = False,
    play: options.Play = False,
    headphones: Annotated[
        bool,
        typer.Option(
            "--headphones",
            help="With --mic: speech may interrupt a reply. Without headphones it would interrupt itself.",
            rich_help_panel=options.SOUND_PANEL,
        ),
    ] = False,
    turn_detection: Annotated[
        Turns | None,
        typer.Option(
            help="With --mic: what ends a question. Default: server_vad, silence; none: Enter.",
            rich_help_panel=options.SOUND_PANEL,
        ),
    ] = None,
    input_device: options.InputDevice = None,
    output_device: options.OutputDevice = None,
    system: options.System = None,
    voice: options.Voice = None,
    out_dir: Annotated[
        Path | None,
        typer.Option(
            "--out-dir",
            "-o",
            metavar="FOLDER",
            help="Answer with speech too: reply-1.wav, ... in this folder, numbered after existing ones.",
        ),
    ] = None,
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
    kv_cache_dtype: options.KVCacheDtype = EngineConfig.kv_cache_dtype,
    block_size: options.BlockSize = EngineConfig.block_size,
    temperature: options.Temperature = SamplingParams.temperature,
    top_p: options.TopP = SamplingParams.top_p,
    top_k: options.TopK = SamplingParams.top_k,
    seed: options.Seed = None,
    max_tokens: options.MaxTokens = None,
    max_units: options.MaxUnits = SamplingParams.max_units,
) -> None:
    """Talk over several turns; /help lists the commands. Input may be piped.

    --mic and --play need the extra `mic` and PortAudio (libportaudio2).
    At a terminal Ctrl-C stops a reply or leaves a line, and a second one at the prompt ends the chat.
    """
    check_texts({"--system": system, "--voice": voice})
    for hint, wants_codec in {"--out-dir": out_dir is not None, "--mic": mic, "--play": play}.items():
        if wants_codec and model is not None and codec is None:
            raise typer.BadParameter("needs --codec, which turns units into speech", param_hint=hint)
    for_voice = {
        "--headphones": headphones,
        "--turn-detection": turn_detection is not None,
        "--input-device": input_device is not None,
    }
    for hint, is_given in for_voice.items():
        if is_given and not mic:
            raise typer.BadParameter("is for --mic", param_hint=hint)
    if output_device is not None and not (mic or play):
        raise typer.BadParameter("is for --mic and --play", param_hint="--output-device")
    if mic and out_dir is not None:
        raise typer.BadParameter("is for a chat without --mic", param_hint="--out-dir")
    params = SamplingParams(
        temperature=temperature,
        top_p=top_p,
        top_k=top_k,
        seed=seed,
        max_tokens=max_tokens,
        max_units=max_units,
    )
    num_replies = 0 if out_dir is None else _make_folder(out_dir)
    with ExitStack() as stack:
        # Before the model is loaded: what is missing is said at once.
        microphone = stack.enter_context(Microphone(input_device)) if mic else None
        speaker = stack.enter_context(Speaker(output_device)) if mic or play else None
        engine = options.open_engine(
            model,
            codec,
            device=device,
            dtype=dtype,
            codec_dtype=codec_dtype,
            vocoder_backend=vocoder_backend,
            vocoder_workers=vocoder_workers,
            vocoder_device=vocoder_device,
            text_backend=text_backend,
            text_backend_arg=text_backend_arg,
            quantization=quantization,
            kv_cache_dtype=kv_cache_dtype,
            block_size=block_size,
        )
        if microphone is not None and speaker is not None:
            with signals.at_once():
                from antiphon.cli.talk import settings_of, talk
            kind = None if turn_detection is Turns.NONE else (turn_detection or Turns.SERVER_VAD).value
            settings = settings_of(params, system, voice, kind)
            talk(engine, settings, microphone, speaker, headphones=headphones)
            return
        stack.enter_context(engine)
        conversation = Conversation(engine, params, system, voice, out_dir, speaker, num_replies=num_replies)
        for line in lines():
            try:
                if not conversation.take(line):
                    break
            except signals.Stopped as stopped:
                if not (sys.stdin.isatty() and stopped.number == signals.INTERRUPT):
                    raise
                signals.forget()


@dataclass
class Conversation:
    """What has been said, and what is attached to the next question."""

    engine: Engine
    params: SamplingParams
    system: str | None
    voice: str | None
    out_dir: Path | None
    speaker: Speaker | None
    messages: list[Message] = field(default_factory=list)
    attached: list[Part] = field(default_factory=list)
    num_replies: int = 0
    """Including those of earlier conversations in the same folder."""

    def take(self, line: str) -> bool:
        """Does what a line says; returns False if it was the last. Raises Stopped if a signal comes."""
        command, _, argument = line.partition(" ")
        try:
            if command == "/quit":
                return False
            if command == "/clear":
                self.messages.clear()
                self.attached.clear()
            elif command == "/image":
                self._attach(argument)
            elif command == "/audio":
                self._ask(Speech(read_typed_file(argument, InputLimits().max_audio_bytes)))
            elif command.startswith("/"):
                say(HELP, err=True)
            elif line:
                check_text(line)
                self._ask(line)
        except EngineDead:
            raise
        except MemoryError:
            show_error("there is not enough memory")
        except (AntiphonError, OSError) as error:
            show_error(error)
        return True

    def _attach(self, name: str) -> None:
        limits = InputLimits()
        if len(self.attached) >= limits.max_images:
            raise InvalidRequest(f"images: expected at most {limits.max_images} with a question")
        self.attached.append(Image(read_typed_file(name, limits.max_image_bytes)))

    def _ask(self, question: Part) -> None:
        """Answers the question, and remembers both. If either fails, the conversation stays as it was, but
        attachments are dropped, since they may be the cause."""
        asked = Message("user", [*self.attached, question])
        self.attached.clear()
        printer = EventPrinter()
        is_text = self.out_dir is None and self.speaker is None
        modalities = Modalities.TEXT if is_text else Modalities.SPEECH
        request = Request(
            modalities=modalities.of_request,
            system=self.system,
            voice=self.voice,
            sampling_params=self.params,
            messages=[*self.messages, asked],
        )
        note = signals.Note()
        completion = run(self.engine, request, printer.show, note, speaker=self.speaker)
        with signals.noted(note):
            wav, written = self._write(completion)
            printer.finish(completion, wav, written.file, is_played=self.speaker is not None)
            if self.speaker is not None:
                self.speaker.wait(lambda: note.number is not None)
            if written.error is not None:
                show_error(written.error)
            # A conversation must not hold empty messages.
            self.messages += [asked, *([Message("assistant", completion.text)] if completion.text else [])]
        if note.number is not None:
            signals.stop(note.number)

    def _write(self, completion: Completion) -> tuple[Path | None, Written]:
        """Where the reply's speech belongs, and what became of it."""
        if self.out_dir is None:
            return None, Written(None)
        self.num_replies += 1
        wav = self.out_dir / f"reply-{self.num_replies}.wav"
        if completion.audio is None or completion.sample_rate_hz is None or not len(completion.audio):
            return wav, Written(None)
        return wav, write_sound(wav, completion.audio, completion.sample_rate_hz)


def _make_folder(folder: Path) -> int:
    """Makes the folder; returns the highest number of a reply in it, or 0. Raises BadParameter now if no
    reply can be written there later."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        check_writable(folder / "reply-1.wav")
        names = [re.fullmatch(r"reply-([0-9]{1,9})\.wav", path.name) for path in folder.iterdir()]
    except (OSError, ValueError) as error:
        raise typer.BadParameter(one_line(error), param_hint="--out-dir") from error
    return max((int(name[1]) for name in names if name), default=0)
