"""One question by the released code's own protocol, as its web page asks it: speech to units, units to a
reply in units and text, units to speech. Nothing but the standard library.

antiphon serve --reference-ports
python examples/released_protocol.py
"""

from __future__ import annotations

import argparse
import base64
import json
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.request import Request, urlopen

import antiphon

DEMO = Path(antiphon.__file__).parent / "assets" / "demo"
PROMPT = (
    "<|begin_of_text|><|start_header_id|>user<|end_header_id|>\n\n<image>\n{speech}<|eot_id|>"
    "<|start_header_id|>assistant<|end_header_id|>\n\n"
)
TIMEOUT_S = 100


def main() -> None:
    parser = argparse.ArgumentParser(description="Ask a spoken question about a picture.")
    parser.add_argument("--controller", default="http://127.0.0.1:10000")
    parser.add_argument("--codec-worker", default="http://127.0.0.1:21003")
    parser.add_argument("--picture", type=Path, default=DEMO / "shapes.png")
    parser.add_argument("--question", type=Path, default=DEMO / "question.wav")
    options = parser.parse_args()

    [model, *_] = post(f"{options.controller}/list_models", {})["models"]
    worker = post(f"{options.controller}/get_worker_address", {"model": model})["address"]
    speech = upload(f"{options.codec_worker}/speech_to_token", options.question)["tokens"]

    prompt = PROMPT.format(speech=speech)
    body = {
        "model": model,
        "prompt": prompt,
        "images": [base64.b64encode(options.picture.read_bytes()).decode()],
        "inference_type": "speech_to_speech",
        "temperature": 0,
        "max_new_tokens": 1024,
        "stop": "<|eot_id|>",
    }
    last: dict[str, Any] = {}
    for last in messages(f"{worker}/worker_generate_stream", body):  # each holds all so far
        if last["error_code"]:
            raise SystemExit(f"error: {last['text']}")
    print("heard:", last["asr_outputs"])
    print("reply:", last["llm_outputs"])
    units = last["text"][len(prompt) :]
    print("sound:", post(f"{options.codec_worker}/token_to_speech", {"tokens": units})["audio_file"])


def post(url: str, body: dict[str, Any]) -> Any:
    request = Request(url, json.dumps(body).encode(), {"Content-Type": "application/json"})
    with urlopen(request, timeout=TIMEOUT_S) as answer:
        return json.load(answer)


def upload(url: str, path: Path) -> Any:
    boundary = uuid.uuid4().hex
    head = f'--{boundary}\r\nContent-Disposition: form-data; name="file"; filename="{path.name}"\r\n\r\n'
    data = head.encode() + path.read_bytes() + f"\r\n--{boundary}--\r\n".encode()
    request = Request(url, data, {"Content-Type": f"multipart/form-data; boundary={boundary}"})
    with urlopen(request, timeout=TIMEOUT_S) as answer:
        return json.load(answer)


def messages(url: str, body: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Each is JSON and ends with a NUL."""
    held = b""
    request = Request(url, json.dumps(body).encode(), {"Content-Type": "application/json"})
    with urlopen(request, timeout=TIMEOUT_S) as answer:
        while piece := answer.read1():
            *whole, held = (held + piece).split(b"\0")
            yield from (json.loads(each) for each in whole)


if __name__ == "__main__":
    main()
