"""Spoken replies that are remembered: until they expire, and as far as there is room."""

from __future__ import annotations

from antiphon.server.kept_audio import BYTES_EACH, KeptAudio


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


def test_what_was_said_is_known_until_it_expires() -> None:
    clock = Clock()
    kept = KeptAudio(60, 10_000, clock)
    first = kept.new_id()
    assert first.expires_at == 1060 and kept.transcript(first.id) is None
    kept.keep(first, "Hello")
    clock.now += 30
    second = kept.new_id()
    kept.keep(second, "again")
    assert first.id != second.id
    clock.now = 1059.9
    assert [kept.transcript(each.id) for each in (first, second)] == ["Hello", "again"]
    clock.now = 1060
    assert [kept.transcript(each.id) for each in (first, second)] == [None, "again"]


def test_the_oldest_make_room() -> None:
    kept = KeptAudio(60, 3 * (BYTES_EACH + 10), Clock())
    ids = [kept.new_id() for _ in range(5)]
    for index, each in enumerate(ids):
        kept.keep(each, str(index) * 10)
    assert [kept.transcript(each.id) for each in ids] == [None, None, "2" * 10, "3" * 10, "4" * 10]
    kept.keep(ids[4], "changed")  # is not counted twice
    assert kept.transcript(ids[2].id) and kept.transcript(ids[4].id) == "changed"
    kept.keep(ids[0], "x" * 10_000)
    assert not any(kept.transcript(each.id) for each in ids), "one that is too large takes all with it"


def test_without_room_nothing_is_kept() -> None:
    kept = KeptAudio(60, 0)
    each = kept.new_id()
    kept.keep(each, "Hello")
    assert kept.transcript(each.id) is None
