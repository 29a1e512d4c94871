"""A recording of any length as requests that an engine can serve together, and their transcripts as one."""

from __future__ import annotations

from collections.abc import Sequence

from antiphon.errors import AntiphonError
from antiphon.inputs.processor import InputProcessor
from antiphon.outputs.transcription import Segment, Transcription, words_of
from antiphon.sound.pieces import Piece, cut_into_pieces
from antiphon.text.tokenizer import Tokenizer
from antiphon.types import Completion, Request, Speech

__all__ = ["CutRecording"]

SHORTEST_PIECE_S = 1.0
"""Where max_model_len leaves less room, pieces are this long all the same, and are refused."""


class CutRecording:
    """A recording, read and cut into the pieces in which there is speech."""

    def __init__(self, inputs: InputProcessor, tokenizer: Tokenizer, speech: Speech) -> None:
        """Reads it whole. Raises InvalidRequest, with the place `speech`."""
        self._tokenizer = tokenizer
        recording = inputs.recording(speech)
        self._samples, self._rate_hz = recording.samples, recording.rate_hz
        self._trim_silence = recording.trim_silence
        longest_s = max(SHORTEST_PIECE_S, inputs.longest_piece_s)
        self._pieces: Sequence[Piece] = cut_into_pieces(self._samples, self._rate_hz, longest_s)

    @property
    def duration_s(self) -> float:
        """Length of the recording."""
        return len(self._samples) / self._rate_hz

    @property
    def requests(self) -> list[Request]:
        """For the transcript of each piece, in order."""
        return [
            Request(Speech(sound, self._trim_silence), ("transcript",))
            for sound in ((self._samples[piece.start : piece.end], self._rate_hz) for piece in self._pieces)
        ]

    def segment(self, index: int, completion: Completion) -> Segment | None:
        """What the completion of one of the requests says; None if no word was heard.

        Raises AntiphonError for a request that failed or was aborted.
        """
        if completion.finish_reason != "stop":
            reason = completion.error or f"it ended with {completion.finish_reason!r}"
            raise AntiphonError(f"a piece of the recording could not be transcribed: {reason}")
        if not completion.transcript:
            return None
        piece = self._pieces[index]
        words = words_of(
            completion.transcript_ids,
            completion.transcript_spans,
            self._tokenizer.token_bytes,
            piece.start / self._rate_hz,
        )
        starts_s, ends_s = piece.loud_start / self._rate_hz, piece.loud_end / self._rate_hz
        return Segment(
            completion.transcript,
            min([starts_s, *(word.start_s for word in words[:1])]),
            max([ends_s, *(word.end_s for word in words[-1:])]),
            words,
            tuple(completion.transcript_ids),
        )

    def transcription(self, completions: Sequence[Completion]) -> Transcription:
        """All of it, from the completions of the requests in their order."""
        segments = [self.segment(index, completion) for index, completion in enumerate(completions)]
        return Transcription(tuple(segment for segment in segments if segment is not None), self.duration_s)
