"""`antiphon chat`: a conversation, line by line, from a terminal or a pipe."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from antiphon.cli import options
from antiphon.cli.generate import run
from antiphon.cli.options import Modalities
from antiphon.cli.terminal import EventPrinter
from antiphon.config import EngineConfig
from antiphon.errors import AntiphonError
from antiphon.types import Image, Message, Part, Request, SamplingParams, Speech

if TYPE_CHECKING:
    from antiphon.engine import Engine

__all__ = ["chat"]

PROMPT = "> "
HELP = """\
a line of text   ask it
/image FILE      show a picture along with the next question
/audio FILE      ask by speech
/clear           forget the conversation
/quit            leave, as does the end of the input"""


def chat(
    system: options.System = None,
    voice: options.Voice = None,
    out_dir: Annotated[
        Path | None,
        typer.Option(
            "--out-dir", "-o", metavar="FOLDER", help="Answer with speech too: reply-1.wav, ... go here."
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
    """Talk over several turns; /help lists what a line may be. Input may be piped."""
    if out_dir is not None and model is not None and codec is None:
        raise typer.BadParameter("needs --codec, which makes speech of units", param_hint="--out-dir")
    params = SamplingParams(
        temperature=temperature,
        top_p=top_p,
        top_k=top_k,
        seed=seed,
        max_tokens=max_tokens,
        max_units=max_units,
    )
    if out_dir is not None:
        out_dir.mkdir(parents=True, exist_ok=True)
    with options.open_engine(model, codec, device, dtype, block_size) as engine:
        conversation = Conversation(engine, params, system, voice, out_dir)
        for line in _lines():
            if not conversation.take(line):
                break


@dataclass
class Conversation:
    """What was said so far, and what the next question brings along."""

    engine: Engine
    params: SamplingParams
    system: str | None
    voice: str | None
    out_dir: Path | None
    messages: list[Message] = field(default_factory=list)
    attached: list[Part] = field(default_factory=list)
    num_replies: int = 0

    def take(self, line: str) -> bool:
        """Does what a line says. False: it was the last one."""
        command, _, argument = line.partition(" ")
        try:
            if command == "/quit":
                return False
            if command == "/clear":
                self.messages.clear()
                self.attached.clear()
            elif command == "/image":
                self.attached.append(Image(_read(argument)))
            elif command == "/audio":
                self._ask(Speech(_read(argument)))
            elif command.startswith("/"):
                typer.echo(HELP, err=True)
            elif line:
                self._ask(line)
        except (AntiphonError, OSError) as error:
            typer.echo(f"antiphon: {error}", err=True)
        return True

    def _ask(self, question: Part) -> None:
        """Answers, and remembers both, unless the question or the reply fails: then all is as it was before,
        but for what was attached, which may be what is wrong."""
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
        completion = run(self.engine, request, printer.show)
        self.num_replies += 1
        wav = None
        if (
            self.out_dir is not None
            and completion.audio is not None
            and completion.sample_rate_hz is not None
        ):
            wav = self.out_dir / f"reply-{self.num_replies}.wav"
            from antiphon.codec import write_audio

            write_audio(wav, completion.audio, completion.sample_rate_hz)
        printer.finish(completion, wav)
        # A conversation holds no empty messages.
        self.messages += [asked, *([Message("assistant", completion.text)] if completion.text else [])]


def _lines() -> Iterator[str]:
    """Lines of the terminal, with its editing and history, or of a pipe; without the spaces around them."""
    interactive = sys.stdin.isatty()
    if interactive:
        with suppress(ImportError):  # some Pythons are built without
            import readline  # noqa: F401  (importing it gives `input` its editing)

        typer.echo("/help lists what a line may be", err=True)
    with suppress(EOFError):
        while True:
            yield input(PROMPT if interactive else "").strip()


def _read(path: str) -> bytes:
    """Read at once: a file that changes later must not change what was said."""
    return Path(path.strip()).expanduser().read_bytes()
