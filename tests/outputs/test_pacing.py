"""Whether sound goes on without a gap, judged by playing it."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from antiphon.outputs.pacing import KEPT, USABLE, Chunk, Pace, Player, Rate, is_gapless

CHUNKS = st.lists(
    st.builds(
        Chunk,
        st.sampled_from([0.0, 0.0, 0.3, 1.0]),
        st.sampled_from([0.25, 0.5, 1.0, 2.0]),
        st.integers(20, 300),
    ),
    max_size=6,
)
PLAYERS = st.lists(st.builds(Player, st.sampled_from([-0.5, 0.0, 0.2, 0.7, 1.5, 4.0]), CHUNKS), max_size=5)
RATES = st.sampled_from([40.0, 100.0, 300.0, 1000.0])


def at_once(player: Player) -> Player:
    return Player(player.left_s, [Chunk(0.0, each.sound_s, each.frames) for each in player.chunks])


def gaps_s(players: list[Player], frames_per_s: float) -> list[float]:
    """How long each of them has nothing to play, if chunks are made one by one, the one that is needed first
    first; not counted is what each lacks before its next chunk could be made."""
    now_s, ends = 0.0, [player.left_s for player in players]
    gaps = [0.0] * len(players)
    left = [list(player.chunks) for player in players]
    for i, chunks in enumerate(left):
        if chunks and ends[i] < 0:
            ends[i] = chunks[0].frames / frames_per_s
    while any(left):
        i = min((i for i in range(len(left)) if left[i]), key=lambda i: ends[i])
        chunk = left[i].pop(0)
        now_s += chunk.frames / frames_per_s
        gaps[i] += max(0.0, now_s - ends[i])
        ends[i] = max(ends[i], now_s) + chunk.sound_s
    return gaps


@given(PLAYERS, RATES)
def test_one_thread_and_all_units(players: list[Player], frames_per_s: float) -> None:
    """Then it is exact: whoever plays by the rule hears gaps if and only if it says so."""
    players = [at_once(player) for player in players]
    expected = max(gaps_s(players, frames_per_s), default=0.0) < 1e-9
    assert is_gapless(players, Rate(frames_per_s, 1)) == expected


@given(PLAYERS, RATES, st.integers(1, 3), st.integers(0, 300))
def test_what_makes_it_harder(players: list[Player], frames_per_s: float, threads: int, in_hand: int) -> None:
    """What is gapless stays so with fewer listeners, all units at once, nothing in hand, or more threads. For
    one who hears a gap already, that gap ends earlier then, and what follows is needed earlier."""
    players = [Player(max(0.0, player.left_s), player.chunks) for player in players]
    if is_gapless(players, Rate(frames_per_s, threads), in_hand):
        assert is_gapless(players[1:], Rate(frames_per_s, threads), in_hand)
        assert is_gapless(list(map(at_once, players)), Rate(frames_per_s, threads), in_hand)
        assert is_gapless(players, Rate(frames_per_s, threads), in_hand=0)
        assert is_gapless(players, Rate(frames_per_s, threads + 1), in_hand)


def test_examples() -> None:
    long = [Chunk(0.0, 1.0, 120)] * 5
    assert is_gapless([], Rate(1.0, 1))
    assert is_gapless([Player(1.0, long)], Rate(120.0, 1))
    assert not is_gapless([Player(1.0, long)], Rate(119.0, 2)), "one after the other, each by one thread"
    assert not is_gapless([Player(1.0, long)] * 2, Rate(239.0, 1))
    assert is_gapless([Player(1.0, long)] * 2, Rate(120.0, 2))
    assert not is_gapless([Player(1.0, long)] * 2, Rate(120.0, 2), in_hand=1)
    assert is_gapless([Player(0.9, long), Player(-3.0, [])], Rate(140.0, 1))
    assert not is_gapless([Player(1.0, [Chunk(0.6, 1.0, 120)])], Rate(240.0, 1)), "its units come too late"
    assert is_gapless([Player(1.2, [Chunk(0.6, 1.0, 120)])], Rate(240.0, 1))


def test_the_last_batches_count_most() -> None:
    pace, known = Pace(), []
    for frames in (100, 400):
        known.append(pace.frames_per_s)
        pace.made(frames, 1.0)
    known.append(pace.frames_per_s)
    assert known == [None, 100 * USABLE, (100 * KEPT + 400) / (KEPT + 1) * USABLE]
