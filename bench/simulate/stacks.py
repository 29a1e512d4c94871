"""Stacks that compute nothing: they take note of how long it would have taken."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence

from antiphon.bench.simulate.costs import Costs, Work
from antiphon.sched.plan import Chunk, Spoken, StackPlan
from antiphon.sched.request import RequestState

__all__ = ["LABEL", "UNIT", "TimedStacks"]

LABEL = 0
"""What every unit is heard as; nobody asks, see `EvenSpeaking`."""
UNIT = TEXT = 7
"""What is picked: a text id, and a unit by its number."""
MAX_KEPT_PICTURES = 64
"""Whose features are kept, see `Runner`; there it is a number of positions."""


class TimedStacks:
    """Stacks for `passes.step`. A unit is heard in the pass that picks it if all in the pass decode, as in
    one recording on a GPU and in one call on a CPU."""

    def __init__(self, costs: Costs) -> None:
        self.work_s = 0.0
        """What the passes since the last `begin` would have taken."""
        self.rows = 0
        """Requests in the largest of them."""
        self.touched: dict[str, RequestState] = {}
        """Those of which something became known, or was computed."""
        self.has_admitted = False
        self._costs = costs
        self._unit = costs.served.model.first_unit_id + UNIT
        self._seen: OrderedDict[bytes, None] = OrderedDict()

    def begin(self) -> None:
        """A new step begins."""
        self.work_s, self.rows, self.has_admitted = 0.0, 0, False
        self.touched.clear()

    def start(self, request: RequestState) -> None:
        self.has_admitted = True

    def run_bottom(self, plan: StackPlan) -> list[list[int]]:
        self._take(plan, 0, is_decode=all(len(chunk) == 1 for chunk in plan.chunks))
        return [[LABEL] * len(c.request.unlabelled(c.start, c.end)) for c in plan.chunks]

    def run_text(self, plan: StackPlan) -> list[int]:
        picks = sum(chunk.samples for chunk in plan.chunks)
        tiles = sum(self._tiles(chunk) for chunk in plan.chunks if chunk.request.image_spans)
        is_decode = picks == len(plan.chunks) == plan.num_tokens
        self._take(plan, picks, is_decode=is_decode, picture_tiles=tiles)
        return [TEXT] * picks

    def run_top(self, plan: StackPlan) -> Spoken:
        picks = sum(chunk.samples for chunk in plan.chunks)
        is_decode = picks == len(plan.chunks) and all(
            len(c) == 1 and c.end > c.request.num_speech_prompt for c in plan.chunks
        )
        self._take(plan, picks, is_decode=is_decode)
        if not is_decode:
            return Spoken([self._unit] * picks, [None] * picks)
        return Spoken([self._unit] * picks, [self._label(chunk) for chunk in plan.chunks])

    def _label(self, chunk: Chunk) -> int | None:
        track = chunk.request.speech
        assert track is not None
        return LABEL if chunk.end < len(track.block_table) * track.block_size else None

    def _take(self, plan: StackPlan, picks: int, *, is_decode: bool, picture_tiles: int = 0) -> None:
        rows = len(plan.chunks)
        context = sum(chunk.end for chunk in plan.chunks)
        work = Work(plan.stack, rows, plan.num_tokens, context, picks, is_decode, picture_tiles)
        self.work_s += self._costs.pass_s(work)
        self.rows = max(self.rows, rows)
        for chunk in plan.chunks:
            self.touched[chunk.request.request_id] = chunk.request

    def _tiles(self, chunk: Chunk) -> int:
        """Tiles of pictures that begin in this chunk and have not been seen of late."""
        tiles = 0
        for span, image in zip(chunk.request.image_spans, chunk.request.prompt.images, strict=True):
            if chunk.start <= span.start < chunk.end:
                if image.digest not in self._seen:
                    tiles += image.plan.num_tiles
                self._seen[image.digest] = None
                self._seen.move_to_end(image.digest)
                while len(self._seen) > MAX_KEPT_PICTURES:
                    self._seen.popitem(last=False)
        return tiles


def decode_works(rows: int, context: int, steps: int) -> Sequence[Work]:
    """The passes of so many unit steps of the same requests. context: in the first of them."""
    return [Work("top", rows, rows, context + i * rows, rows, is_decode=True) for i in range(steps)]
