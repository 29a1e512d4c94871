"""Requests to the server that were right until something in them was changed, each the same for the same
number."""

from __future__ import annotations

import base64
import copy
import json
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

from openai_client import DEMO
from sound_files import by_ffmpeg, by_libsndfile

__all__ = ["ROUTES", "Body", "mutated", "right"]

MODEL = "stream_omni"
BOUNDARY = "antiphon-boundary"
MAX_DEEP = 3000
Path = tuple[str | int, ...]


@dataclass(frozen=True)
class Body:
    """A request: where it goes, what it holds, and what was done to it."""

    route: str
    content: bytes
    content_type: str
    changes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Field:
    """Of a form. filename: of a file."""

    name: str
    data: bytes
    filename: str | None = None


# --- right requests ---------------------------------------------------------------------------------


def _picture() -> str:
    return f"data:image/png;base64,{base64.b64encode((DEMO / 'shapes.png').read_bytes()).decode()}"


def _question() -> bytes:
    return (DEMO / "question.wav").read_bytes()


def _user(*parts: Any) -> list[Any]:
    return [{"role": "user", "content": list(parts)}]


def _chat(draw: random.Random) -> dict[str, Any]:
    text = {"type": "text", "text": "How much is two plus three?"}
    picture = {"type": "image_url", "image_url": {"url": _picture(), "detail": "auto"}}
    sound = {"data": base64.b64encode(_question()).decode(), "format": "wav"}
    speech = {"type": "input_audio", "input_audio": sound}
    body: dict[str, Any] = {"model": MODEL, "max_completion_tokens": 6, "temperature": 0, "seed": 7}
    body["messages"] = draw.choice(
        [
            [{"role": "user", "content": "How much is two plus three?"}],
            [{"role": "system", "content": "Be brief."}, *_user(text)],
            [*_user(text), {"role": "assistant", "content": "Five."}, *_user(text)],
            _user(picture, text),
            _user(speech),
            _user(picture, speech),
        ]
    )
    if draw.random() < 0.3:
        body |= {"modalities": ["text", "audio"], "max_units": 16}
        body["audio"] = {"voice": "alloy", "format": draw.choice(["wav", "mp3", "pcm16"])}
    else:
        body |= {"stop": ["!"], "top_p": 0.9}
    if draw.random() < 0.3:
        body |= {"stream": True, "stream_options": {"include_usage": True}}
    return body


def _responses(draw: random.Random) -> dict[str, Any]:
    shown = {"type": "input_image", "image_url": _picture(), "detail": "low"}
    asked = {"type": "input_text", "text": "What is in the picture?"}
    body: dict[str, Any] = {"model": MODEL, "max_output_tokens": 6, "metadata": {"of": "a test"}}
    body["input"] = draw.choice(["How much is two plus three?", _user(shown, asked), _user(asked)])
    if draw.random() < 0.3:
        body["stream"] = True
    return body | ({"instructions": "Be brief."} if draw.random() < 0.5 else {})


def _speech(draw: random.Random) -> dict[str, Any]:
    form = draw.choice(["wav", "mp3", "pcm", "flac", "opus", "aac"])
    body: dict[str, Any] = {"model": MODEL, "input": "Hi.", "voice": "alloy", "response_format": form}
    return body | {"speed": draw.choice([1, 2.5]), "stream_format": draw.choice(["audio", "sse"])}


def _transcriptions(draw: random.Random) -> list[Field]:
    fields = [Field("file", _sound(draw), "question.wav"), Field("model", MODEL.encode())]
    fields.append(Field("response_format", draw.choice([b"json", b"text", b"verbose_json", b"srt", b"vtt"])))
    if fields[-1].data == b"verbose_json":
        fields.append(Field("timestamp_granularities[]", b"word"))
    if fields[-1].data == b"json" and draw.random() < 0.5:
        fields.append(Field("stream", b"true"))
    return [*fields, Field("language", b"en"), Field("temperature", b"0")]


def _voices(draw: random.Random) -> list[Field]:
    return [
        Field("name", b"anna-%d" % draw.randrange(10**6)),
        Field("audio_sample", _sound(draw), "clip.wav"),
        Field("type", b"audio_sample"),
    ]


def _sound(draw: random.Random) -> bytes:
    """The demo's question, or some noise, of a kind that libsndfile or ffmpeg reads."""
    kinds: list[Callable[[], bytes]] = [
        _question,
        _question,
        lambda: by_libsndfile("FLAC", "PCM_16"),
        lambda: by_libsndfile("OGG", "VORBIS"),
        lambda: by_libsndfile("MP3", "MPEG_LAYER_III"),
        lambda: by_ffmpeg("-c:a aac -f adts"),
        lambda: by_ffmpeg("-c:a libopus -f webm"),
    ]
    return draw.choice(kinds)()


ROUTES: dict[str, Callable[[random.Random], Any]] = {
    "/v1/chat/completions": _chat,
    "/v1/responses": _responses,
    "/v1/audio/speech": _speech,
    "/v1/audio/transcriptions": _transcriptions,
    "/v1/audio/voices": _voices,
}


# --- changes ----------------------------------------------------------------------------------------


def right(route: str, number: int) -> Body:
    """A request that nothing was done to."""
    return _written(route, ROUTES[route](random.Random(f"{route} {number}")))


def mutated(number: int) -> Body:
    """One of any number of requests, to the routes in turn."""
    route = list(ROUTES)[number % len(ROUTES)]
    draw = random.Random(f"{route} {number}")
    content = ROUTES[route](draw)
    changes: list[str] = []
    for _ in range(draw.choice([1, 1, 1, 2, 3])):
        change: Any = draw.choice(_IN_FORM if isinstance(content, list) else _IN_JSON)
        content, done = change(draw, content)
        changes.append(done)
    body = _written(route, content)
    if draw.random() < 0.25:
        change = draw.choice([_cut, _flip, _repeat, _text_of_json, _content_type])
        body, done = change(draw, body)
        changes.append(done)
    return replace(body, changes=tuple(changes))


@lru_cache
def _odd_values() -> tuple[Any, ...]:
    # fmt: off
    return (
        None, True, False, 0, 1, -1, 2**31, 2**63, -(2**63) - 1, 10**30, 10**400, 1e308, -0.0, 0.1,
        float("nan"), float("inf"), float("-inf"), "", " ", "\0", "\ud800", "\udfff\ud800", "é", "\u202e",
        "🎵", "NaN", "text", "<|eot_id|>", "<image>", "<Audio_3>", "../../etc/passwd", "file:///etc/passwd",
        "http://127.0.0.1:1/", "http://[::1", "data:", "data:;base64", "data:image/png;base64,",
        "data:image/png;base64,====", "data:audio/wav;base64,AAAA", "data:," + "%" * 50, "x" * 5000,
        [], {}, [[]], [None], [0], [""], {"": None}, {"type": "text"}, {"id": "alloy"}, {"type": []},
        [{"role": "user", "content": "Hi"}], {"type": "text", "text": "Hi"}, [0.5],
    )
    # fmt: on


def _deep(draw: random.Random) -> Any:
    value: Any = "Hi"
    for _ in range(draw.choice([5, 60, 400])):
        value = [value] if draw.random() < 0.5 else {"content": value}
    return value


def _places(value: Any, path: Path = ()) -> Iterator[Path]:
    if path:
        yield path
    pairs = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, each in pairs:
        yield from _places(each, (*path, key))


def _at(value: Any, path: Path) -> Any:
    for key in path:
        value = value[key]
    return value


def _replaced(draw: random.Random, body: Any) -> tuple[Any, str]:
    """A value by another, of the right type or of a wrong one."""
    body, path = copy.deepcopy(body), draw.choice(list(_places(body)) or [()])
    if not path:
        return body, "nothing"
    value = _deep(draw) if draw.random() < 0.05 else copy.deepcopy(draw.choice(_odd_values()))
    _at(body, path[:-1])[path[-1]] = value
    return body, f"{path} = {repr(value)[:60]}"


def _text_changed(draw: random.Random, body: Any) -> tuple[Any, str]:
    """What is asked, or what is to be said: any text there is an answer to, if there is one at all."""
    body = copy.deepcopy(body)
    names = ("text", "content", "input", "instructions")
    found = [p for p in _places(body) if p[-1] in names and isinstance(_at(body, p), str)]
    if not found:
        return _replaced(draw, body)
    path = draw.choice(found)
    texts = [value for value in _odd_values() if isinstance(value, str)]
    text = "".join(draw.choice([*texts, "a b. ", "!?\n\n", "1,000.50 ", "ﬁ\u0301", "中文"]) for _ in range(3))
    _at(body, path[:-1])[path[-1]] = text[: draw.choice([1, 20, 200])]
    return body, f"{path} = {text[:30]!a}"


def _removed(draw: random.Random, body: Any) -> tuple[Any, str]:
    body, path = copy.deepcopy(body), draw.choice(list(_places(body)) or [()])
    if path:
        del _at(body, path[:-1])[path[-1]]
    return body, f"{path} removed"


def _added(draw: random.Random, body: Any) -> tuple[Any, str]:
    """A field that belongs elsewhere, or nowhere; or an item twice."""
    body = copy.deepcopy(body)
    path = draw.choice([(), *_places(body)])
    target, value = _at(body, path), copy.deepcopy(draw.choice(_odd_values()))
    if isinstance(target, dict):
        names = [
            "type",
            "content",
            "role",
            "audio",
            "data",
            "url",
            "text",
            "n",
            "tools",
            "\ud800",
            "",
            "x" * 500,
        ]
        name = draw.choice(names)
        target[name] = value
        return body, f"{path}[{name[:20]!a}] = {repr(value)[:60]}"
    if isinstance(target, list):
        for _ in range(draw.choice([1, 3, 40])):
            target.append(copy.deepcopy(target[0]) if target and draw.random() < 0.5 else value)
        return body, f"{path} grown"
    return body, "nothing"


def _media(draw: random.Random, body: Any) -> tuple[Any, str]:
    """The bytes behind base64, or the base64 itself."""
    body = copy.deepcopy(body)
    found = [
        path for path in _places(body) if isinstance(_at(body, path), str) and len(_at(body, path)) > 1500
    ]
    if not found:
        return _replaced(draw, body)
    path = draw.choice(found)
    text: str = _at(body, path)
    head, comma, code = text.rpartition(",")
    if draw.random() < 0.25:
        code = _bytes_changed(draw, code.encode()).decode("latin-1")
    else:
        try:
            data = base64.b64decode(code)
        except ValueError:
            data = b""
        code = base64.b64encode(_bytes_changed(draw, data)).decode()
    _at(body, path[:-1])[path[-1]] = head + comma + code
    return body, f"{path} with other bytes"


def _bytes_changed(draw: random.Random, data: bytes) -> bytes:
    out = bytearray(data)
    match draw.randrange(6):
        case 0:
            return b""
        case 1:
            return bytes(out[: draw.randrange(len(out) + 1)])
        case 2:
            for _ in range(draw.choice([1, 8, 100])):
                if out:
                    out[draw.randrange(len(out))] = draw.randrange(256)
        case 3:  # headers are where sizes and kinds are written
            for _ in range(draw.choice([1, 2, 4])):
                if out:
                    out[draw.randrange(min(len(out), 64))] = draw.choice([0, 1, 0x7F, 0x80, 0xFF])
        case 4:
            start = draw.randrange(len(out) + 1)
            del out[start : start + draw.choice([1, 2, 1000])]
        case _:
            return draw.randbytes(draw.choice([1, 44, 2000]))
    return bytes(out)


_IN_JSON = (_replaced, _replaced, _removed, _added, _media, _media, _text_changed, _text_changed)


def _field_changed(draw: random.Random, fields: list[Field]) -> tuple[list[Field], str]:
    fields = list(fields)
    if not fields:
        return fields, "nothing"
    index = draw.randrange(len(fields))
    old = fields[index]
    match draw.randrange(6):
        case 0:
            del fields[index]
        case 1:
            fields.insert(draw.randrange(len(fields)), old)
        case 2:
            fields[index] = replace(old, filename=None if old.filename else "a.wav")
        case 3:
            fields[index] = replace(
                old, name=draw.choice(["prompt", "include[]", "", "é", "file", "x" * 300])
            )
        case _:
            value = draw.choice(_odd_values())
            text = value if isinstance(value, str) else json.dumps(value)
            fields[index] = replace(old, data=text.encode("utf-8", "surrogatepass"))
    return fields, f"{old.name} changed"


def _file_changed(draw: random.Random, fields: list[Field]) -> tuple[list[Field], str]:
    changed = [replace(f, data=_bytes_changed(draw, f.data)) if f.filename else f for f in fields]
    return changed, "the file with other bytes"


_IN_FORM = (_field_changed, _file_changed, _file_changed)


def _cut(draw: random.Random, body: Body) -> tuple[Body, str]:
    return replace(body, content=body.content[: draw.randrange(len(body.content) + 1)]), "cut"


def _flip(draw: random.Random, body: Body) -> tuple[Body, str]:
    out = bytearray(body.content)
    for _ in range(draw.choice([1, 5])):
        if out:
            out[draw.randrange(len(out))] ^= 1 << draw.randrange(8)
    return replace(body, content=bytes(out)), "bits flipped"


def _repeat(draw: random.Random, body: Body) -> tuple[Body, str]:
    return replace(
        body, content=body.content + body.content[: draw.choice([1, 20, len(body.content)])]
    ), "more"


def _text_of_json(draw: random.Random, body: Body) -> tuple[Body, str]:
    """What no JSON library writes: keys twice, literals that are none, nesting without an end."""
    content = body.content
    made = draw.choice(
        [
            b'{"model": "x", ' + content[1:],
            content[:-1] + b', "stream": false, "stream": true, "input": "a", "input": "b"}',
            content.replace(b": 6", b": 1e999"),
            content.replace(b": 6", b": " + b"9" * 5000),
            content.replace(b": 6", b": -"),
            content.replace(b": 0", b": NaN"),
            b"[" * MAX_DEEP,
            b'{"messages":' * MAX_DEEP,
            b'{"input": ' + b"[" * 300 + b"]" * 300 + b"}",
            b"\xef\xbb\xbf" + content,
            content.decode("latin-1").encode("utf-16"),
            content.replace(b"e", b"\xff"),
            b"null",
            b"",
            b'"text"',
        ]
    )
    return replace(body, content=made), "other JSON"


def _content_type(draw: random.Random, body: Body) -> tuple[Body, str]:
    kinds = (
        "text/plain",
        "application/json; charset=utf-16",
        "application/x-www-form-urlencoded",
        "multipart/form-data",
        "multipart/form-data; boundary=other",
        "multipart/form-data; boundary=" + "x" * 300,
        "",
        ";;;",
    )
    kind = draw.choice(kinds)
    return replace(body, content_type=kind), f"Content-Type: {kind[:40]}"


# --- writing ----------------------------------------------------------------------------------------


def _written(route: str, content: Any) -> Body:
    if isinstance(content, dict):
        return Body(route, json.dumps(content).encode(), "application/json")
    pieces = []
    for field in content:
        named = f'name="{field.name}"' + (f'; filename="{field.filename}"' if field.filename else "")
        head = f"--{BOUNDARY}\r\nContent-Disposition: form-data; {named}\r\n"
        head += "Content-Type: audio/wav\r\n\r\n" if field.filename else "\r\n"
        pieces.append(head.encode() + field.data + b"\r\n")
    end = f"--{BOUNDARY}--\r\n".encode()
    return Body(route, b"".join([*pieces, end]), f"multipart/form-data; boundary={BOUNDARY}")
