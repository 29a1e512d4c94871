"""The sounds that units are taught to tell apart: the 39 of the CMU dictionary, and silence.

Each synthesizer writes them in its own alphabet; all are brought to this one.
"""

from __future__ import annotations

__all__ = ["NUM_PHONES", "PHONES", "SILENCE", "from_festival", "from_misaki"]

PHONES = (
    "pau", "aa", "ae", "ah", "ao", "aw", "ay", "b", "ch", "d", "dh", "eh", "er", "ey", "f", "g", "hh",
    "ih", "iy", "jh", "k", "l", "m", "n", "ng", "ow", "oy", "p", "r", "s", "sh", "t", "th", "uh", "uw",
    "v", "w", "y", "z", "zh",
)  # fmt: skip
NUM_PHONES = len(PHONES)
SILENCE = 0
_NUMBERS = {name: number for number, name in enumerate(PHONES)}

# The alphabet of misaki, which hibari reads: one letter a sound, diphthongs as capitals.
_MISAKI = {
    "A": "ey", "I": "ay", "O": "ow", "Q": "ow", "W": "aw", "Y": "oy", "ᵊ": "ah", "a": "ae", "b": "b",
    "d": "d", "e": "eh", "f": "f", "h": "hh", "i": "iy", "j": "y", "k": "k", "l": "l", "m": "m", "n": "n",
    "o": "ow", "p": "p", "r": "r", "s": "s", "t": "t", "T": "t", "u": "uw", "v": "v", "w": "w", "x": "k",
    "z": "z", "ɑ": "aa", "ɐ": "ah", "ɒ": "aa", "æ": "ae", "ɔ": "ao", "ð": "dh", "ʤ": "jh", "ə": "ah",
    "ɚ": "er", "ɛ": "eh", "ɜ": "er", "ɡ": "g", "ɪ": "ih", "ᵻ": "ih", "ŋ": "ng", "ɹ": "r", "ɾ": "t",
    "ʃ": "sh", "ʧ": "ch", "ʊ": "uh", "ʌ": "ah", "ʒ": "zh", "θ": "th", "ʔ": "t",
}  # fmt: skip
# What flite and festival write beyond the dictionary's own names.
_FESTIVAL = {"ax": "ah", "axr": "er", "ix": "ih", "el": "l", "em": "m", "en": "n", "dx": "t", "nx": "n",
             "hv": "hh", "h#": "pau", "brth": "pau", "sil": "pau", "ssil": "pau", "#": "pau"}  # fmt: skip


def from_misaki(symbols: str) -> list[int]:
    """One number for each symbol: a sound, SILENCE for punctuation, -1 for what has no sound of its own
    (stress, length, spaces, and the r that the vowel before it holds)."""
    numbers = []
    for i, symbol in enumerate(symbols):
        if symbol == "ɹ" and i and symbols[i - 1] in "ɜɚə":
            numbers.append(-1)
        elif symbol == "ə" and symbols[i + 1 : i + 2] == "ɹ":
            numbers.append(_NUMBERS["er"])
        elif symbol in _MISAKI:
            numbers.append(_NUMBERS[_MISAKI[symbol]])
        else:
            numbers.append(SILENCE if symbol in ",.!?;:—…" else -1)
    return numbers


def from_festival(name: str) -> int:
    """The number of a segment of flite or festival. Raises KeyError for one that is not English."""
    return _NUMBERS[_FESTIVAL.get(name, name)]
