"""`antiphon chat`: a conversation, line by line, from a terminal or a pipe."""

from __future__ import annotations

import re
import shlex
import sys
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from antiphon.cli import options, signals
from antiphon.cli.generate import run
from antiphon.cli.inputs import about, check_texts, read_file
from antiphon.cli.lines import lines
from antiphon.cli.options import Modalities
from antiphon.cli.sound_file import Written, write_sound
from antiphon.cli.streams import one_line, say, show_error
from antiphon.cli.terminal import EventPrinter
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
PIPE_PATIENCE_S = 3.0
"""How long a pipe given to /image or /audio may stay silent."""


def chat(
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
    block_size: options.BlockSize = EngineConfig.block_size,
    temperature: options.Temperature = SamplingParams.temperature,
    top_p: options.TopP = SamplingParams.top_p,
    top_k: options.TopK = SamplingParams.top_k,
    seed: options.Seed = None,
    max_tokens: options.MaxTokens = None,
    max_units: options.MaxUnits = SamplingParams.max_units,
) -> None:
    """Talk over several turns; /help lists the commands. Input may be piped.

    At a terminal Ctrl-C stops a reply or leaves a line, and a second one at the prompt ends the chat.
    """
    check_texts({"--system": system, "--voice": voice})
    if out_dir is not None and model is not None and codec is None:
        raise typer.BadParameter("needs --codec, which turns units into speech", param_hint="--out-dir")
    params = SamplingParams(
        temperature=temperature,
        top_p=top_p,
        top_k=top_k,
        seed=seed,
        max_tokens=max_tokens,
        max_units=max_units,
    )
    num_replies = 0 if out_dir is None else _make_folder(out_dir)
    with options.open_engine(model, codec, device, dtype, block_size) as engine:
        conversation = Conversation(engine, params, system, voice, out_dir, num_replies=num_replies)
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
                self._ask(Speech(_read(argument, InputLimits().max_audio_bytes)))
            elif command.startswith("/"):
                say(HELP, err=True)
            elif line:
                _check_text(line)
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
        self.attached.append(Image(_read(name, limits.max_image_bytes)))

    def _ask(self, question: Part) -> None:
        """Answers the question, and remembers both. If either fails, the conversation stays as it was, but
        attachments are dropped, since they may be the cause."""
        asked = Message("user", [*self.attached, question])
        self.attached.clear()
        printer = EventPrinter()
        modalities = Modalities.TEXT if self.out_dir is None else Modalities.SPEECH
        request = Request(
            modalities=modalities.of_request,
            system=self.system,
            voice=self.voice,
            sampling_params=self.params,
            messages=[*self.messages, asked],
        )
        note = signals.Note()
        completion = run(self.engine, request, printer.show, note)
        with signals.noted(note):
            wav, written = self._write(completion)
            printer.finish(completion, wav, written.file)
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


def _check_text(line: str) -> None:
    """Raises InvalidRequest for a line that is not in the terminal's encoding."""
    try:
        line.encode("utf-8")
    except UnicodeEncodeError as error:
        encoding = getattr(sys.stdin, "encoding", None) or "UTF-8"
        raise InvalidRequest(f"expected a line in {encoding}, got other bytes") from error


def _read(typed: str, max_bytes: int) -> bytes:
    """Reads the file now: if it changes later, that must not change what was said."""
    path = _path(typed.strip())
    try:
        return read_file(path, max_bytes, patience_s=PIPE_PATIENCE_S)
    except (OSError, ValueError) as error:
        raise OSError(about(path, error)) from error


def _path(typed: str) -> Path:
    """The file that was meant, by its plain name, or by its name as a shell or a dragged file writes it, with
    quotes or backslashes."""
    if not typed:
        raise InvalidRequest("expected the name of a file, got nothing")
    names = [typed]
    with suppress(ValueError):  # a quotation mark that is part of a name
        words = shlex.split(typed)
        names += words if len(words) == 1 else []
    paths = []
    for name in names:
        path = Path(name)
        with suppress(RuntimeError):  # no such user
            path = path.expanduser()
        paths.append(path)
    with suppress(OSError, ValueError):
        return next((path for path in paths if path.exists()), paths[-1])
    return paths[-1]
