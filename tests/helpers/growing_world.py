"""The fake world with requests whose users are still speaking, and speculative ones.

Its memory lets nobody write to a block that others read or may find, and its runner forgets what it heard as
soon as it may.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from fake_model import FIRST_UNIT, make_prompt
from fake_world import Memory, Step, World

from antiphon.prompt import GrowingPrompt, PreparedImage, Prompt
from antiphon.sched.block_pool import BlockPool
from antiphon.sched.request import RequestState
from antiphon.sched.track import Track

__all__ = ["GrowingWorld", "open_prompt"]


def open_prompt(
    ids: Sequence[int] = (), units: Sequence[int] = (), pictures: Sequence[PreparedImage] = ()
) -> GrowingPrompt:
    """`make_prompt` before its closing, with `units` as those heard so far."""
    whole = make_prompt(ids, units, pictures, speaks=False)
    return GrowingPrompt(
        ids=whole.ids[:-1],
        images=whole.images,
        unit_positions=whole.unit_positions,
        num_last_units=whole.num_last_units,
        first_unit_id=FIRST_UNIT,
        closing=whole.ids[-1:],
        num_growing_units=len(units),
    )


class StrictMemory(Memory):
    def __init__(self, pool: BlockPool) -> None:
        super().__init__()
        self._pool = pool

    def write(self, track: Track, owner: str, stack: str, position: int, state: int) -> None:
        block, offset = track.block_table[position // track.block_size], position % track.block_size
        if self._pool.block(block).ref_count > 1 or self._pool.block(block).digest is not None:
            held = self._blocks.get(block, ("", {}))
            assert held[0] == owner and held[1].get((stack, offset)) == state, f"block {block} is others'"
        super().write(track, owner, stack, position, state)


class GrowingWorld(World):
    def __init__(self, num_blocks: int, **settings: Any) -> None:
        super().__init__(num_blocks, **settings)
        self.memory = StrictMemory(self.pool)

    @property
    def unfinished(self) -> list[RequestState]:
        scheduler = self.scheduler
        waiting = (*scheduler.waiting_growing, *scheduler.waiting_speculative)
        return [*super().unfinished, *waiting, *scheduler.resting]

    def guess(self, request: RequestState) -> RequestState:
        """Add a request as a speculative one."""
        request.is_speculative = True
        return self.add(request)

    def open(
        self,
        units: Sequence[int] = (),
        *,
        ids: Sequence[int] = (),
        pictures: Sequence[PreparedImage] = (),
        **params: Any,
    ) -> RequestState:
        return self.add(self.make(open_prompt(ids, units, pictures), **params))

    def update_speech(self, request: RequestState, units: Sequence[int]) -> bool:
        """False if these units can never fit; then nothing has changed."""
        assert isinstance(request.prompt, GrowingPrompt)
        prompt = request.prompt.with_units(units)
        num_more = len(prompt.ids) + len(prompt.closing) - len(request.prompt.ids)
        if not self.scheduler.fits(request, num_more):
            return False
        self._update(request, prompt)
        return True

    def commit(self, request: RequestState) -> None:
        assert isinstance(request.prompt, GrowingPrompt)
        self._update(request, request.prompt.committed())

    def settle(self) -> list[Step]:
        """Steps while there is work, and every step must do some; what is left is open and waits for its
        user."""
        steps = []
        while self.scheduler.has_work:
            steps.append(self.step())
            assert steps[-1].did_something, "nobody is served, and nobody ever will be"
            assert len(steps) < 5000, "this does not end"
        assert all(request.is_growing for request in self.unfinished)
        return steps

    def _update(self, request: RequestState, prompt: Prompt) -> None:
        self.scheduler.update_speech(request, prompt)
        self.scheduler.check_integrity()
        assert request.speech is not None
        assert tuple(request.speech.ids) == prompt.speech_ids
        read = request.speech_before(request.text.num_computed)
        if request.speaks:
            read = min(read, request.top_computed)
        heard = self.heard.get(request.request_id, {})
        kept = {p: state for p, state in heard.items() if read <= p < request.speech.num_computed}
        self.heard[request.request_id] = kept
