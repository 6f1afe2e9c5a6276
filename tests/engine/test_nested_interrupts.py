"""An Interrupt within another: a run that a sweep trains in its own process."""

from __future__ import annotations

import os
import signal

import pytest

from loopwright.engine.interrupt import Interrupt


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGUSR1])
def test_the_outer_one_hears_what_the_inner_one_was_told(number: int) -> None:
    before = signal.getsignal(number)
    with Interrupt() as outer:
        with Interrupt() as first:
            assert not first()
        with Interrupt() as inner:
            os.kill(os.getpid(), number)
            assert inner() and outer() and not first()
        assert outer()
    assert signal.getsignal(number) is before


def test_the_second_signal_is_the_second_for_both() -> None:
    with Interrupt() as outer, Interrupt():
        os.kill(os.getpid(), signal.SIGINT)
        assert outer()
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)


def test_a_warning_and_the_signal_after_it_ask_once() -> None:
    with Interrupt() as outer, Interrupt() as inner:
        os.kill(os.getpid(), signal.SIGUSR1)
        os.kill(os.getpid(), signal.SIGTERM)
        assert inner.received == outer.received == signal.SIGTERM
