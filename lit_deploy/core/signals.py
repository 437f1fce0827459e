"""How signals end a process of ours: within seconds, with its temporary files, whatever it is doing."""

from __future__ import annotations

import contextlib
import os
import queue
import signal
import threading
import time
from collections.abc import Iterator
from types import FrameType
from typing import NoReturn

from lit_deploy.core.files import remove_temporary

ENDING = (signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT)
GRACE_S = 5.0
"""Seconds between a signal and the end of a process that is too deep in native code to notice."""

_SHOW_CURSOR = b"\x1b[?25h"


@contextlib.contextmanager
def ended_by_signals(grace: float = GRACE_S) -> Iterator[None]:
    """Have SIGTERM, SIGHUP and SIGQUIT raise ``SystemExit(128 + number)``, so that contexts are left, as with Ctrl-C.

    Python hands a signal over between two of its own instructions, so not while the main thread compiles a network or
    waits in a library. A thread watches over that: ``grace`` seconds after the first signal, Ctrl-C among them, it
    deletes the temporary files and ends the process, should it still be there. What was ignored when the process began
    (``nohup``) stays ignored. Does nothing outside the main thread.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: handler for number in ENDING if (handler := signal.getsignal(number)) != signal.SIG_IGN}
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    for number in before:
        signal.signal(number, _leave)
    caught: queue.SimpleQueue[bool] = queue.SimpleQueue()
    threading.Thread(target=_watch, args=(reader, grace, caught), name="signals", daemon=True).start()
    wakeup = signal.set_wakeup_fd(writer, warn_on_full_buffer=False)  # written to even while no Python runs
    try:
        yield
    finally:
        os.write(writer, b"\0")
        if not caught.get():  # otherwise the thread stays to see the process end
            signal.set_wakeup_fd(wakeup)
            for number, handler in before.items():
                signal.signal(number, handler)
            os.close(reader)
            os.close(writer)


def _leave(number: int, frame: FrameType | None) -> NoReturn:
    for other in ENDING:
        signal.signal(other, signal.SIG_IGN)  # a second one would break off what the first has begun
    raise SystemExit(128 + number)


def _watch(reader: int, grace: float, caught: queue.SimpleQueue[bool]) -> None:
    """Read the numbers of signals, and end the process some time after one that should."""
    while (number := os.read(reader, 1)[0]) not in (*ENDING, signal.SIGINT):
        if number == 0:
            caught.put(False)
            return
    caught.put(True)
    time.sleep(grace)
    remove_temporary()
    if os.isatty(2):
        os.write(2, _SHOW_CURSOR)  # a progress line hides it
    os._exit(128 + number)


def _forget() -> None:
    """In a forked process the pipe would be its parent's, and a signal would end the parent."""
    if any(signal.getsignal(number) is _leave for number in ENDING):
        signal.set_wakeup_fd(-1)
        for number in ENDING:
            if signal.getsignal(number) is _leave:
                signal.signal(number, signal.SIG_DFL)


os.register_at_fork(after_in_child=_forget)
