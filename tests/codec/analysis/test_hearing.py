"""Sound is heard with its silence or without it, whole or as it comes, and units keep their places in it."""

from __future__ import annotations

from importlib.resources import files
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from antiphon.assets.embedded import EMBEDDED_CODEC
from antiphon.codec import Codec
from antiphon.codec.analysis.listening import ListenSchedule
from antiphon.errors import InvalidRequest
from antiphon.sound.arrays import AudioArray
from antiphon.sound.reading import read_audio

RATE_HZ = 16000
QUESTION, _ = read_audio(str(files("antiphon.assets") / "demo" / "question.wav"))
EVERY_PUSH = ListenSchedule(interval_s=1e-6, growth=0, holdback_units=0)
UNIT_S = 0.04


@pytest.fixture(scope="module")
def packaged() -> Codec:
    return Codec.from_pretrained(EMBEDDED_CODEC, device="cpu")


def quiet(seconds: float, level: float = 0.0) -> AudioArray:
    noise: AudioArray = np.random.default_rng(0).normal(0, level, int(seconds * RATE_HZ)).astype(np.float32)
    return noise


def question(before_s: float = 0.0, after_s: float = 0.0) -> AudioArray:
    return np.concatenate([quiet(before_s), QUESTION, quiet(after_s)])


def test_the_packaged_codec_cuts_silence_and_others_do_not(packaged: Codec, codec: Codec) -> None:
    assert packaged.trims_silence
    assert not codec.trims_silence
    sound = question(2.0, 2.0)
    assert len(codec.tokenize(sound, RATE_HZ)) >= 25 * len(sound) // RATE_HZ
    assert len(packaged.tokenize(sound, RATE_HZ)) < 25 * 2
    assert codec.tokenize(sound, RATE_HZ, trim_silence=False) == codec.tokenize(sound, RATE_HZ)
    assert len(packaged.tokenize(sound, RATE_HZ, trim_silence=False)) >= 25 * len(sound) // RATE_HZ
    assert len(codec.tokenize(sound, RATE_HZ, trim_silence=True)) < 25 * 2


@pytest.mark.parametrize(("before_s", "after_s"), [(0.52, 0.3), (2.0, 0.52), (3.0, 3.0)])
def test_digital_silence_changes_no_unit(packaged: Codec, before_s: float, after_s: float) -> None:
    heard = packaged.tokenize(question(1.0, 1.0), RATE_HZ)
    assert packaged.tokenize(question(before_s, after_s), RATE_HZ) == heard


def test_units_keep_their_places(packaged: Codec) -> None:
    """Of two questions with a pause of three seconds between them."""
    sound = np.concatenate([question(2.0, 3.0), QUESTION, quiet(1.0)])
    heard = packaged.hear(sound, RATE_HZ)
    assert heard.length == -(-len(sound) // (RATE_HZ // 25))
    assert all(before < after for before, after in pairwise(heard.places))
    assert len(heard.places) == len(heard.units)
    begins_s, ends_s = heard.places[0] * UNIT_S, (heard.places[-1] + 1) * UNIT_S
    assert 2.0 < begins_s < 2.3
    assert len(sound) / RATE_HZ - 1.5 < ends_s < len(sound) / RATE_HZ - 0.7
    [jump] = [after - before for before, after in pairwise(heard.places) if after > before + 1]
    assert 2.5 < jump * UNIT_S < 3.6


def test_without_cuts_each_unit_has_its_own_place(packaged: Codec) -> None:
    heard = packaged.hear(question(1.0, 1.0), RATE_HZ, trim_silence=False)
    assert heard.places == tuple(range(len(heard.units)))
    assert heard.length == len(heard.units)


@pytest.mark.parametrize("nothing", [quiet(2.0), quiet(2.0, 0.1)], ids=["silence", "noise"])
def test_where_nobody_speaks_nothing_is_cut(packaged: Codec, nothing: AudioArray) -> None:
    expected = packaged.tokenize(nothing, RATE_HZ, trim_silence=False)
    assert packaged.tokenize(nothing, RATE_HZ) == expected
    listener = packaged.listen(RATE_HZ, EVERY_PUSH)
    for begin in range(0, len(nothing), 8000):
        assert listener.push(nothing[begin : begin + 8000]) == []
    assert listener.peek() == expected
    assert listener.finish() == expected


def test_what_is_no_flag_is_refused(packaged: Codec) -> None:
    for wrong in ("yes", 1):
        with pytest.raises(InvalidRequest, match="trim_silence: expected True or False"):
            packaged.tokenize(QUESTION, RATE_HZ, trim_silence=wrong)  # type: ignore[arg-type]
        with pytest.raises(InvalidRequest, match="trim_silence: expected True or False"):
            packaged.listen(RATE_HZ, trim_silence=wrong)  # type: ignore[arg-type]


@settings(deadline=None, max_examples=15)
@given(
    parts=st.lists(
        st.tuples(st.sampled_from(["speech", "silence", "noise"]), st.floats(0.001, 1.7)),
        min_size=1,
        max_size=5,
    ),
    cuts=st.lists(st.floats(0, 1), max_size=6),
    rate_hz=st.sampled_from([8000, 16000, 44100]),
    piece_s=st.sampled_from([1, 2]),
)
def test_sound_that_comes_bit_by_bit_is_heard_as_the_whole(
    packaged: Codec, parts: list[tuple[str, float]], cuts: list[float], rate_hz: int, piece_s: int
) -> None:
    """Pieces of a second or two here, so that some of several have no speech."""
    sounds = {"speech": QUESTION, "silence": quiet(1.7), "noise": quiet(1.7, 0.01)}
    sound = np.concatenate([sounds[kind][: int(seconds * RATE_HZ) + 1] for kind, seconds in parts])
    with pytest.MonkeyPatch.context() as patch:
        for module in ("hearing", "listening", "speech_tokenizer"):
            patch.setattr(f"antiphon.codec.analysis.{module}.PIECE_SAMPLES", piece_s * RATE_HZ)
        listener = packaged.listen(rate_hz)
        num_pushed = 0
        for chunk in np.split(sound, sorted(int(cut * len(sound)) for cut in cuts)):
            listener.push(chunk)
            num_pushed += len(chunk)
            expected = packaged.hear(sound[:num_pushed], rate_hz) if num_pushed else None
            assert listener.peek() == list(expected.units if expected else ())
            if expected is not None:
                lasts = [listener.sound_units(n) for n in range(len(expected.units))]
                assert lasts == list(expected.places)
        assert listener.finish() == packaged.tokenize(sound, rate_hz)


def test_silence_costs_no_network(packaged: Codec, monkeypatch: pytest.MonkeyPatch) -> None:
    assert packaged.tokenizer is not None
    listener = packaged.listen(RATE_HZ, EVERY_PUSH)
    sound = question(1.0, 1.0)
    listener.push(sound)
    heard = listener.peek()
    with monkeypatch.context() as patch:
        patch.setattr(packaged.tokenizer, "_tokenize_piece", lambda samples: pytest.fail("it was run"))
        for _ in range(20):
            assert listener.push(quiet(0.2)) == heard
        assert listener.peek() == heard
    assert listener.sound_units(len(heard)) == (len(sound) + 4 * RATE_HZ) // 640
    assert listener.finish() == heard
