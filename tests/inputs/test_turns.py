from __future__ import annotations

import contextlib
import threading

from antiphon.inputs.turns import Turns


def test_those_who_share_take_turns_and_others_do_not_wait() -> None:
    turns, shared, inside = Turns(), object(), []
    entered, leave = threading.Event(), threading.Event()

    def first() -> None:
        with turns.of(shared):
            entered.set()
            leave.wait(60)
            inside.append("first")

    def second() -> None:
        with turns.of(shared):
            inside.append("second")

    threads = [threading.Thread(target=first), threading.Thread(target=second)]
    threads[0].start()
    assert entered.wait(60)
    threads[1].start()
    with turns.of(object()):
        assert inside == []
    leave.set()
    for thread in threads:
        thread.join()
    assert inside == ["first", "second"]


def test_nothing_is_kept_of_what_is_not_in_use() -> None:
    turns = Turns()
    with contextlib.suppress(KeyError), turns.of(3):
        assert len(turns._turns) == 1
        raise KeyError
    assert turns._turns == {}
    with turns.of(3):
        pass
    assert turns._turns == {}
