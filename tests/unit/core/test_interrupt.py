"""Signals that ask for an end: what they do where there is something to save, and where there is not."""

import io
import os
import signal
import threading
import time

import pytest

from ndsm.core.interrupt import (
    Terminated,
    handlers,
    is_terminated,
    keep,
    on_interrupt,
    terminable,
)


@pytest.fixture(autouse=True)
def _as_in_the_foreground():
    """A shell that starts the tests in the background has SIGINT ignored, nohup SIGHUP."""
    usual = {signal.SIGINT: signal.default_int_handler, signal.SIGHUP: signal.SIG_DFL}
    before = {signum: signal.signal(signum, handler) for signum, handler in usual.items()}
    yield
    for signum, handler in before.items():
        signal.signal(signum, handler)


def send(signum):
    os.kill(os.getpid(), signum)
    # Handlers run in the main thread, between two of its steps.
    time.sleep(0.01)


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGHUP])
def test_a_terminating_signal_ends_what_has_nothing_to_save_as_ctrl_c_would(signum):
    before = signal.getsignal(signum)
    closed = []

    def work():
        assert not is_terminated()
        try:
            send(signum)
            pytest.fail("went on")
        finally:
            # What cleans up is not cut short by a second one.
            send(signum)
            closed.append(True)

    with terminable(), pytest.raises(Terminated):
        work()
    assert closed
    assert is_terminated()
    assert signal.getsignal(signum) == before


def test_the_first_asks_and_only_ctrl_c_insists():
    asked, console = [], io.StringIO()
    with on_interrupt(lambda: asked.append(1) or True, "saving", console) as pressed:
        assert not pressed()
        for _ in range(3):
            send(signal.SIGTERM)
        assert pressed()
        assert len(asked) == 1
        with pytest.raises(KeyboardInterrupt):
            send(signal.SIGINT)
    assert console.getvalue() == "SIGTERM came: saving\n"
    assert is_terminated()
    with on_interrupt(lambda: False, "saving", console), pytest.raises(Terminated):
        send(signal.SIGHUP)


def test_what_is_saved_is_not_waited_for_and_what_takes_too_long_neither(monkeypatch):
    is_saved, went_on = threading.Event(), []

    def work(saves=True):
        send(signal.SIGTERM)
        time.sleep(0.3)
        went_on.append(saves)
        if saves:
            is_saved.set()
        time.sleep(100)

    with on_interrupt(lambda: True, "saving", io.StringIO(), is_saved.is_set), pytest.raises(Terminated):
        work()
    monkeypatch.setattr("ndsm.core.interrupt.GRACE_SECONDS", 0.5)
    with on_interrupt(lambda: True, "saving", io.StringIO(), lambda: False), pytest.raises(Terminated):
        work(saves=False)
    assert went_on[0]


def test_a_signal_that_is_ignored_stays_so():
    """As SIGHUP under `nohup`."""
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with terminable(), on_interrupt(lambda: pytest.fail("asked"), "saving", io.StringIO()):
            send(signal.SIGHUP)
        assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)


def test_handlers_are_kept_from_a_library_and_a_script_without_any_gets_its():
    def library(signum, frame):
        raise AssertionError

    with terminable():
        before = handlers()
        signal.signal(signal.SIGTERM, library)
        keep(before)
        with pytest.raises(Terminated):
            send(signal.SIGTERM)
    outside = signal.signal(signal.SIGTERM, signal.SIG_DFL)
    try:
        before = handlers()
        signal.signal(signal.SIGTERM, library)
        keep(before)
        assert signal.getsignal(signal.SIGTERM) is library
    finally:
        signal.signal(signal.SIGTERM, outside)
