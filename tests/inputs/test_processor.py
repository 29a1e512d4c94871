from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from antiphon.config import InputLimits, ModelConfig
from antiphon.errors import CheckpointError, InvalidRequest
from antiphon.inputs.chat import DEFAULT_SYSTEM
from antiphon.inputs.processor import InputProcessor
from antiphon.prompt import IMAGE_ID, HeardUnits
from antiphon.text.tokenizer import Tokenizer
from antiphon.types import Image, Message, Part, Request, SamplingParams, Speech, Units

LIMITS = InputLimits(max_images=2, max_text_chars=1000, max_messages=4, max_audio_s=2.0)
PICTURE = np.zeros((20, 30, 3), np.uint8)
SILENCE = (np.zeros(8000, np.float32), 16000)


class FakeCodec:
    """Hears one unit in each tenth of a second: the count of units before it, plus `first`."""

    voices: Sequence[str] = ("anna", "otto")

    def __init__(self, first: int = 0) -> None:
        self.first = first

    def hear(self, samples: np.ndarray, rate_hz: int, *, trim_silence: bool | None = None) -> HeardUnits:
        num_units = len(samples) * 10 // rate_hz
        places = tuple(range(num_units))
        return HeardUnits(tuple(self.first + i for i in places), places, num_units)


@pytest.fixture(scope="module")
def processor(config: ModelConfig, tokenizer: Tokenizer) -> InputProcessor:
    return InputProcessor(config, tokenizer, FakeCodec(), LIMITS)


def test_golden_prompts(config: ModelConfig, tokenizer: Tokenizer, golden: dict[str, Any]) -> None:
    processor = InputProcessor(config, tokenizer, None, InputLimits())
    for case in golden["cases"]:
        prompt = processor.process(case["request"])
        assert list(prompt.ids) == case["input_ids"], case["name"]
        assert prompt.speaking_ids == (case["prefill_ids"] and tuple(case["prefill_ids"])), case["name"]
        assert prompt.has_speech == case["mode"].startswith("speech")
        assert len(prompt.images) == len(case["images"])
        assert len(prompt.speech_ids) == len(case.get("prompt_ctc", prompt.speech_ids))
        units = [prompt.speech_ids[i] for i in prompt.unit_positions]
        assert units == [i for i in case["input_ids"] if i >= config.first_unit_id]
        assert prompt.num_last_units == len(units)
        assert prompt.num_text_positions == len(prompt.speech_ids) + sum(
            i.num_positions for i in prompt.images
        )


def test_several_turns(processor: InputProcessor, config: ModelConfig, tokenizer: Tokenizer) -> None:
    first = config.first_unit_id
    prompt = processor.process(
        Request(
            messages=[
                Message("user", (Units([1, 2, 3]), Image(PICTURE), "So?")),
                Message("assistant", ["Well,", " yes.", Units(np.array([63]))]),  # type: ignore[arg-type]
                Message("user", [Speech(SILENCE), "and", Units(range(2))]),
                Message("user", "Go on."),
            ],
            modalities=["audio", "text"],
            system="Brief.",
        )
    )
    text = "".join("<image>" if i == IMAGE_ID else tokenizer.decode([i], False) for i in prompt.ids)
    assert text == (
        "<|begin_of_text|><|start_header_id|>system<|end_header_id|>\n\nBrief.<|eot_id|>"
        "<|start_header_id|>user<|end_header_id|>\n\n<image>\n<Audio_1><Audio_2><Audio_3>So?<|eot_id|>"
        "<|start_header_id|>assistant<|end_header_id|>\n\nWell, yes.<Audio_63><|eot_id|>"
        "<|start_header_id|>user<|end_header_id|>\n\n"
        "<Audio_0><Audio_1><Audio_2><Audio_3><Audio_4>and<Audio_0><Audio_1><|eot_id|>"
        "<|start_header_id|>user<|end_header_id|>\n\nGo on.<|eot_id|>"
        "<|start_header_id|>assistant<|end_header_id|>\n\n"
    )
    heard = [prompt.speech_ids[i] - first for i in prompt.unit_positions]
    assert heard == [1, 2, 3, 63, 0, 1, 2, 3, 4, 0, 1]
    assert prompt.num_last_units == 7
    assert prompt.has_speech
    assert prompt.speaking_ids is None
    assert prompt.num_text_positions == len(prompt.ids) - 1 + prompt.images[0].num_positions


@pytest.mark.parametrize(
    ("request_", "system"),
    [
        (Request("Hi."), DEFAULT_SYSTEM),
        (Request("Hi.", system="Be kind."), "Be kind."),
        (Request("Hi.", system=""), None),
        (Request(messages=[Message("system", ["Be ", "kind."]), Message("user", "Hi.")]), "Be kind."),
        (Request(messages=[Message("system", "A"), Message("user", "Hi.")], system="B"), "A"),
        (Request(messages=[Message("system", ""), Message("user", "Hi.")], system="B"), None),
    ],
)
def test_system_messages(
    processor: InputProcessor, tokenizer: Tokenizer, request_: Request, system: str | None
) -> None:
    """The system message is that of the conversation, the request or the model, in this order; and the
    speaking prompt has the same."""
    prompt = processor.process(replace(request_, modalities=("text", "audio")))
    opening = "<|begin_of_text|>"
    if system is not None:
        opening += f"<|start_header_id|>system<|end_header_id|>\n\n{system}<|eot_id|>"
    opening += "<|start_header_id|>user<|end_header_id|>\n\n"
    closing = "<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\n"
    assert tokenizer.decode(prompt.ids, False) == opening + "Hi." + closing
    assert prompt.speaking_ids is not None
    assert tokenizer.decode(prompt.speaking_ids, False) == opening + " " + closing
    assert processor.process(request_).speaking_ids is None


def test_images_stand_in_the_order_of_their_marks(processor: InputProcessor) -> None:
    wide, tall = np.zeros((20, 90), np.uint8), np.zeros((90, 20), np.uint8)
    messages = [Message("user", ["a", Image(wide)]), Message("user", [Image(tall), "b"])]
    prompt = processor.process(Request(messages=messages))
    expected = [processor.process(Request([Image(pixels)])).images[0].digest for pixels in (wide, tall)]
    assert [image.digest for image in prompt.images] == expected
    assert prompt.ids.count(IMAGE_ID) == 2


@pytest.mark.parametrize(
    ("request_", "message"),
    [
        ("Hi.", "^request: expected a Request, got str"),
        (Request(), "^request: .* got neither"),
        (Request("a", messages=[Message("user", "a")]), "^request: .* got both"),
        (Request("a", "text"), r"^modalities: .* got 'text'"),
        (Request("a", ()), "^modalities: "),
        (Request("a", ("audio",)), "^modalities: "),
        (Request("a", ("text", "text")), "^modalities: "),
        (Request("a", ("text", "audio", "video")), "^modalities: "),
        (Request("a", ("text", [1])), "^modalities: "),  # type: ignore[arg-type]
        (Request("a", 3), "^modalities: "),  # type: ignore[arg-type]
        (Request("a", system=3), "^system: .* got int"),  # type: ignore[arg-type]
        (Request("a", voice=3), "^voice: .* got int"),  # type: ignore[arg-type]
        (Request("a", voice="nobody"), "^voice: expected one of anna, otto, got 'nobody'"),
        (Request("a", request_id=3), "^request_id: .* got int"),  # type: ignore[arg-type]
        (Request("a", sampling_params={}), "^sampling_params: .* got dict"),  # type: ignore[arg-type]
        (Request(b"a"), "^content: .* user to be str, Image, Speech, Units, got bytes"),  # type: ignore[arg-type]
        (Request(""), "^content: .* only empty text"),
        (Request([]), "^content: .* nothing"),
        (Request(["", ""]), "^content: .* only empty text"),
        (Request(["a", PICTURE]), r"^content\[1\]: .* got ndarray"),  # type: ignore[list-item]
        (Request([Message("user", "a")]), r"^content\[0\]: .* got Message"),  # type: ignore[list-item]
        (Request(part for part in "a"), "^content: .* got generator"),  # type: ignore[arg-type]
        (Request(["a", None]), r"^content\[1\]: .* got NoneType"),  # type: ignore[list-item]
        (Request("\ud800"), r"^content: .* surrogate"),
        (Request("a", system="\ud800"), r"^system: .* surrogate"),
        (Request(["ok", "<Audio_1>"]), r"^content: .* unit tokens"),
        (Request("a" * 1001, system=""), "^text: expected at most 1000 characters, got 1001"),
        (Request("a", system="a" * 1000), "^text: expected at most 1000 characters, got 1001"),
        (Request([Image(PICTURE)] * 3), "^images: expected at most 2, got more"),
        (Request(Image("no/such.png")), "^content: image: .* cannot be read"),
        (Request(["a", Image(b"junk")]), r"^content\[1\]: image: "),
        (Request(Units([])), "^content: expected at least one unit"),
        (Request(Units([0, 64])), "^content: expected unit numbers from 0 to 63, got 64"),
        (Request(Units([-1])), "^content: expected unit numbers from 0 to 63, got -1"),
        (Request(Units([1, True])), r"^content\.units\[1\]: .* got bool"),
        (Request(Units([1, 2.0])), r"^content\.units\[1\]: .* got float"),  # type: ignore[list-item]
        (Request(Units("12")), "^content: expected units .* got str"),  # type: ignore[arg-type]
        (Request(Units(b"12")), "^content: expected units .* got bytes"),
        (Request(Units(7)), "^content: expected units .* got int"),  # type: ignore[arg-type]
        (Request(Units(np.zeros((2, 2), int))), "^content: expected units .* got an array"),  # type: ignore[arg-type]
        (Request(Units(np.zeros(2))), "^content: expected units .* got an array"),  # type: ignore[arg-type]
        (Request(["a", Speech(b"junk")]), r"^content\[1\]: audio: "),
        (
            Request(Speech((np.zeros(100, np.float32), 16000))),
            "^content: expected speech of at least one unit",
        ),
        (Request(Speech((np.zeros(40000, np.float32), 16000))), "^content: audio: "),
        (Request(messages="a"), "^messages: expected a list of Message, got str"),  # type: ignore[arg-type]
        (Request(messages=[]), "^messages: expected 1 to 4 of them, got 0"),
        (Request(messages=[Message("user", "a")] * 5), "^messages: expected 1 to 4 of them, got 5"),
        (Request(messages=["a"]), r"^messages\[0\]: expected a Message, got str"),  # type: ignore[list-item]
        (Request(messages=[Message("tool", "a")]), r"^messages\[0\]\.role: .* got 'tool'"),
        (Request(messages=[Message(None, "a")]), r"^messages\[0\]\.role: .* None"),  # type: ignore[arg-type]
        (Request(messages=[Message("system", "a")]), r"^messages\[0\]\.role: .* last .* got system"),
        (
            Request(messages=[Message("user", "a"), Message("assistant", "b")]),
            r"^messages\[1\]\.role: .* last",
        ),
        (
            Request(messages=[Message("user", "a"), Message("system", "b"), Message("user", "c")]),
            r"^messages\[1\]\.role: a system message can only be the first",
        ),
        (
            Request(messages=[Message("system", "a"), Message("system", "b"), Message("user", "c")]),
            r"^messages\[1\]\.role: .* only once",
        ),
        (
            Request(messages=[Message("system", Units([1])), Message("user", "c")]),
            r"^messages\[0\]\.content: .* system to be str, got Units",
        ),
        (
            Request(messages=[Message("assistant", ["a", Image(PICTURE)]), Message("user", "c")]),
            r"^messages\[0\]\.content\[1\]: .* assistant to be str, Speech, Units, got Image",
        ),
        (
            Request(messages=[Message("assistant", ""), Message("user", "c")]),
            r"^messages\[0\]\.content: .* only empty text",
        ),
        (
            Request(messages=[Message("user", "a"), Message("user", ["b", Units([99])])]),
            r"^messages\[1\]\.content\[1\]: expected unit numbers",
        ),
        (
            Request(messages=[Message("user", "a"), Message("user", "<Audio_5>")]),
            r"^messages\[1\]\.content: .* unit tokens",
        ),
    ],
)
def test_what_is_refused(processor: InputProcessor, request_: Any, message: str) -> None:
    with pytest.raises(InvalidRequest, match=message):
        processor.process(request_)


def test_what_is_taken(processor: InputProcessor) -> None:
    """The edges of what is refused."""
    for request in (
        Request(" "),
        Request([Image(PICTURE), ""]),
        Request("a", voice="anna", request_id="x", sampling_params=SamplingParams()),
        Request("a" * 1000, system=""),
        Request([Image(PICTURE)] * 2),
        Request(Units([0, 63])),
        Request("<image> and <|eot_id|>"),
    ):
        prompt = processor.process(request)
        assert prompt.ids.count(IMAGE_ID) == len(prompt.images)


def test_without_a_vision_tower(config: ModelConfig, tokenizer: Tokenizer) -> None:
    processor = InputProcessor(replace(config, vision=None), tokenizer, None, LIMITS)
    with pytest.raises(InvalidRequest, match=r"^content\[0\]: this model has no vision tower"):
        processor.process(Request([Image(PICTURE), "a"]))
    assert processor.process(Request("a")).images == ()


def test_without_a_codec(config: ModelConfig, tokenizer: Tokenizer) -> None:
    processor = InputProcessor(config, tokenizer, None, LIMITS)
    with pytest.raises(InvalidRequest, match=r"^content\[1\]: no codec is loaded.*Units"):
        processor.process(Request(["a", Speech(SILENCE)]))
    assert processor.process(Request(Units([1]), voice="anna")).has_speech


def test_a_codec_of_another_model(config: ModelConfig, tokenizer: Tokenizer) -> None:
    processor = InputProcessor(config, tokenizer, FakeCodec(first=60), LIMITS)
    with pytest.raises(InvalidRequest, match=r"^content: expected unit numbers from 0 to 63, got 64"):
        processor.process(Request(Speech(SILENCE)))


def test_a_tokenizer_of_another_model(config: ModelConfig, tokenizer: Tokenizer) -> None:
    with pytest.raises(CheckpointError, match=r"below text_vocab_size 300, found 383"):
        InputProcessor(replace(config, text_vocab_size=300), tokenizer, None, LIMITS)


def test_an_unknown_vision_setting(config: ModelConfig, tokenizer: Tokenizer) -> None:
    with pytest.raises(CheckpointError, match="image_aspect_ratio"):
        InputProcessor(replace(config, image_aspect_ratio="highres"), tokenizer, None, LIMITS)


# --- open requests --------------------------------------------------------------------------------


def test_golden_prompts_that_were_open(
    config: ModelConfig, tokenizer: Tokenizer, golden: dict[str, Any]
) -> None:
    """Whatever was heard on the way, the whole prompt is that of the request that came at once."""
    processor = InputProcessor(config, tokenizer, None, InputLimits())
    for case in golden["cases"]:
        *before, last = case["request"].content
        if not isinstance(last, Units):
            continue
        request = replace(case["request"], content=[*before, Units([7, 7])])
        prompt = processor.process_growing(request)
        for units in ([], [1], [5] * 300, last.units):
            prompt = processor.with_speech(prompt, units)
            assert (
                prompt.num_last_units == prompt.num_growing_units == len(prompt.unit_positions) == len(units)
            )
        assert (prompt.is_growing, prompt.has_speech) == (True, True)
        whole, expected = prompt.committed(), processor.process(case["request"])
        assert list(whole.ids) == case["input_ids"]
        for name in ("unit_positions", "num_last_units", "speaking_ids", "speech_ids", "num_text_positions"):
            assert getattr(whole, name) == getattr(expected, name), name
        assert [i.digest for i in whole.images] == [i.digest for i in expected.images]
        assert (whole.is_growing, whole.closing) == (False, ())


def test_what_stands_before_open_speech_stays(processor: InputProcessor, config: ModelConfig) -> None:
    """A turn of speech before it, and text, a picture and units in its own message."""
    turns = [Message("user", Units([1, 2])), Message("assistant", "Yes.")]
    before: list[Part] = [Image(PICTURE), Units([3]), "and:"]
    request = Request(messages=[*turns, Message("user", [*before, Units([])])], modalities=("text", "audio"))
    prompt = processor.process_growing(request)
    assert (prompt.num_last_units, prompt.num_growing_units, prompt.speaking_ids) == (1, 0, None)
    prompt = processor.with_speech(prompt, [4, 5])
    whole = processor.process(
        Request(messages=[*turns, Message("user", [*before, Units([4, 5])])], modalities=("text", "audio"))
    )
    assert prompt.committed().ids == whole.ids
    assert prompt.committed().unit_positions == whole.unit_positions
    assert prompt.num_last_units == whole.num_last_units == 3


def test_the_first_of_open_speech_is_speech(processor: InputProcessor) -> None:
    """Before a unit is there, the LLM already reads the prompt as a spoken one."""
    assert processor.process_growing(Request(Units([]))).has_speech
    with pytest.raises(InvalidRequest, match=r"^content: expected at least one unit, got none"):
        processor.process(Request(Units([])))
