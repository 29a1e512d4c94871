"""The model behind a server that speaks OpenAI's API, such as `antiphon serve`."""

from __future__ import annotations

import base64
import mimetypes
from collections.abc import Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from pathlib import Path
from typing import Any

from antiphon.errors import AntiphonError, ConfigError
from antiphon.evaluation.answer import Answer
from antiphon.evaluation.cases import Case, Turn
from antiphon.evaluation.duplex_server import turns_over
from antiphon.evaluation.engine_answers import seed_of
from antiphon.evaluation.extras import needed
from antiphon.evaluation.options import Options
from antiphon.sound.reading import read_audio
from antiphon.sound.writing import encode_audio

__all__ = ["ServerAnswers", "base_url_of"]

TIMEOUT_S = 600.0


def base_url_of(server: str) -> str:
    """`http://127.0.0.1:8000` and `http://127.0.0.1:8000/v1` are the same. Raises ConfigError for no URL."""
    if not server.startswith(("http://", "https://")):
        raise ConfigError(f"--server: expected http://HOST:PORT, got {server!r}")
    url = server.rstrip("/")
    return url if url.endswith("/v1") else f"{url}/v1"


class ServerAnswers:
    """Several requests at a time, each in a thread of its own."""

    def __init__(self, server: str, options: Options, *, api_key: str | None, concurrency: int) -> None:
        """Raises ConfigError if nothing answers there."""
        if options.task == "duplex" and options.activity != "auto":
            raise ConfigError("--activity: is a setting of the model in this process; leave it out")
        openai = needed("openai", "--server")
        self._errors: type[Exception] = openai.OpenAIError
        self._api_key = api_key
        self._base_url = base_url_of(server)
        self._client: Any = openai.OpenAI(
            base_url=self._base_url, api_key=api_key or "none", timeout=TIMEOUT_S
        )
        self._options = options
        self._concurrency = concurrency
        try:
            self.model_name: str = self._client.models.list().data[0].id
        except (openai.OpenAIError, IndexError) as error:
            raise ConfigError(f"--server: {server} does not say what it serves: {error}") from error

    def answers(self, cases: Sequence[Case]) -> Iterator[tuple[Case, Answer]]:
        waiting, running = iter(cases), dict[Future[Answer], Case]()
        with ThreadPoolExecutor(self._concurrency, "evaluation") as threads:
            try:
                while True:
                    while len(running) < self._concurrency and (case := next(waiting, None)) is not None:
                        running[threads.submit(self._answer, case)] = case
                    if not running:
                        return
                    for future in wait(running, return_when=FIRST_COMPLETED).done:
                        yield running.pop(future), future.result()
            finally:
                for future in running:
                    future.cancel()

    def _answer(self, case: Case) -> Answer:
        try:
            match self._options.task:
                case "asr":
                    assert case.audio is not None
                    with case.audio.open("rb") as file:
                        said = self._client.audio.transcriptions.create(model=self.model_name, file=file)
                    return Answer(transcript=said.text)
                case "tts":
                    voice = self._options.voice or "default"
                    sound = self._client.audio.speech.create(
                        model=self.model_name, voice=voice, input=case.text, response_format="wav"
                    )
                    return Answer(case.text, "", *read_audio(sound.content))
                case "duplex":
                    return turns_over(self._base_url, self._api_key, case, self._options)
            return self._reply(case)
        except (self._errors, AntiphonError, OSError) as error:
            return Answer(error=str(error))

    def _reply(self, case: Case) -> Answer:
        messages: list[dict[str, Any]] = []
        for turn in case.turns:
            messages.append(self._message(turn))
            reply = turn.reply
            if reply is None:
                answer = self._asked(case, messages, speaks=False)
                reply = answer.text
            messages.append({"role": "assistant", "content": reply})
        return self._asked(case, [*messages, self._message(case)], speaks=self._options.speaks)

    def _message(self, asked: Case | Turn) -> dict[str, Any]:
        parts: list[dict[str, Any]] = []
        if asked.image is not None:
            parts.append({"type": "image_url", "image_url": {"url": _data_url(asked.image)}})
        if asked.audio is not None and self._options.ask == "speech":
            data = base64.b64encode(encode_audio(*read_audio(asked.audio))).decode("ascii")
            parts.append({"type": "input_audio", "input_audio": {"data": data, "format": "wav"}})
        else:
            parts.append({"type": "text", "text": asked.text})
        return {"role": "user", "content": parts}

    def _asked(self, case: Case, messages: list[dict[str, Any]], *, speaks: bool) -> Answer:
        options = self._options
        asked: dict[str, Any] = {
            "model": self.model_name,
            "messages": messages,
            "seed": seed_of(case),
            "temperature": 0.0,
        }
        if options.max_tokens is not None:
            asked["max_completion_tokens"] = options.max_tokens
        if speaks:
            asked |= {
                "modalities": ["text", "audio"],
                "audio": {"voice": options.voice or "default", "format": "wav"},
                "extra_body": {"max_units": options.max_units},
            }
        done = self._client.chat.completions.create(**asked)
        message, finish = done.choices[0].message, done.choices[0].finish_reason
        transcript = getattr(done, "input_transcript", None) or ""
        if message.audio is None:
            return Answer(message.content or "", transcript, finish=finish)
        sound = read_audio(base64.b64decode(message.audio.data))
        return Answer(message.audio.transcript, transcript, *sound, finish)


def _data_url(path: Path) -> str:
    kind = mimetypes.guess_type(path.name)[0] or "image/png"
    return f"data:{kind};base64,{base64.b64encode(path.read_bytes()).decode('ascii')}"
