"""Signals as a flag."""

from __future__ import annotations

import os
import signal

import pytest

from workers.stop import Stop


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_the_first_signal_sets_the_flag_and_ends_nothing(number: signal.Signals) -> None:
    """The cut is finished first; afterwards signals mean what they meant before."""
    before = signal.getsignal(number)
    with Stop() as stop:
        assert not stop()
        os.kill(os.getpid(), number)
        assert stop.wait(5)
        assert stop.is_set()
    assert signal.getsignal(number) == before


def test_a_second_interrupt_is_taken_at_once() -> None:
    """Whoever presses Ctrl-C twice does not want to wait for a checkpoint."""

    def interrupt_twice() -> None:
        with Stop() as stop:
            os.kill(os.getpid(), signal.SIGINT)
            assert stop.wait(5)
            os.kill(os.getpid(), signal.SIGINT)
            stop.wait(5)

    with pytest.raises(KeyboardInterrupt):
        interrupt_twice()
