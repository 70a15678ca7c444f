"""Handlers of Ctrl-C and SIGTERM for a block."""

from __future__ import annotations

import signal
import threading

import pytest

from retainfirst.unlearning._signals import on_interrupt

NUMBERS = (signal.SIGINT, signal.SIGTERM)


HANDLERS = {
    "python": signal.default_int_handler,
    "own": lambda number, frame: None,
    "default": signal.SIG_DFL,
    "ignored": signal.SIG_IGN,
}


@pytest.fixture(params=HANDLERS.values(), ids=HANDLERS.keys())
def former(request):
    before = {number: signal.signal(number, request.param) for number in NUMBERS}
    yield request.param
    for number, handler in before.items():
        signal.signal(number, handler)


def test_the_former_handlers_are_restored(former):
    seen = []
    with on_interrupt(lambda number, _: seen.append(number)):
        for number in NUMBERS:
            signal.raise_signal(number)
    assert seen == list(NUMBERS)
    assert [signal.getsignal(number) for number in NUMBERS] == [former, former]


def test_they_are_restored_after_errors_and_in_nested_blocks(former):
    def interrupt(number, frame):
        raise KeyboardInterrupt

    def nested():
        with on_interrupt(interrupt):
            with on_interrupt(signal.SIG_IGN):
                for number in NUMBERS:
                    signal.raise_signal(number)
            signal.raise_signal(signal.SIGTERM)

    with pytest.raises(KeyboardInterrupt):
        nested()
    assert [signal.getsignal(number) for number in NUMBERS] == [former, former]


def test_another_thread_changes_no_handler_and_its_errors_have_no_context(former):
    caught = []

    def run():
        try:
            with on_interrupt(lambda *_: None):
                caught.append(signal.getsignal(signal.SIGINT))
                raise RuntimeError("boom")
        except RuntimeError as error:
            caught.append(error.__context__)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    assert caught == [former, None]
