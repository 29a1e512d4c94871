"""One question to a server by the `openai` package: the reply's text as it comes, and its sound in a file.

antiphon serve
python examples/openai_client.py
python examples/openai_client.py --out reply.wav
"""

from __future__ import annotations

import argparse
import base64
from pathlib import Path
from typing import Any

import openai

import antiphon

DEMO = Path(antiphon.__file__).parent / "assets" / "demo"


def main() -> None:
    parser = argparse.ArgumentParser(description="Ask a server a spoken question about a picture.")
    parser.add_argument("--base-url", default="http://127.0.0.1:8000/v1")
    parser.add_argument("--api-key", default="any", help="one of the server's, if it has keys")
    parser.add_argument("--picture", type=Path, default=DEMO / "shapes.png")
    parser.add_argument("--question", type=Path, default=DEMO / "question.wav")
    parser.add_argument("--out", type=Path, default=Path("reply.wav"))
    options = parser.parse_args()

    client = openai.OpenAI(base_url=options.base_url, api_key=options.api_key)
    model = client.models.list().data[0].id

    with options.question.open("rb") as file:
        print("heard:", client.audio.transcriptions.create(model=model, file=file).text)

    picture = f"data:image/png;base64,{_base64(options.picture)}"
    content: Any = [
        {"type": "image_url", "image_url": {"url": picture}},
        {"type": "input_audio", "input_audio": {"data": _base64(options.question), "format": "wav"}},
    ]
    chunks = client.chat.completions.create(
        model=model,
        messages=[{"role": "user", "content": content}],
        modalities=["text", "audio"],
        audio={"voice": "alloy", "format": "wav"},
        stream=True,
    )
    sound = ""
    print("reply: ", end="")
    for chunk in chunks:
        audio = chunk.choices[0].delta.model_dump().get("audio") or {}  # older versions have no type for it
        print(audio.get("transcript") or "", end="", flush=True)
        sound += audio.get("data") or ""
    options.out.write_bytes(base64.b64decode(sound))
    print(f"\nsound: {options.out}")


def _base64(path: Path) -> str:
    return base64.b64encode(path.read_bytes()).decode()


if __name__ == "__main__":
    main()
