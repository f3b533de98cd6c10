"""Signals that end the command: it cleans up first, and does not take long."""

from __future__ import annotations

import os
import select
import signal
import socket
import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["Ended", "until_signals"]

SECONDS = 10.0
"""Seconds that cleaning up may take. What waits within a library for a store that is
silent does not notice a signal before that."""


class Ended(BaseException):
    """The process was told to end."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.name = signal.Signals(number).name
        self.exit_code = 128 + number


@contextmanager
def until_signals() -> Iterator[None]:
    """Raise `Ended` or KeyboardInterrupt at the first signal; end at the second.

    What somebody ignores, as ``nohup`` does, stays ignored.
    """
    names = ("SIGINT", "SIGTERM", "SIGHUP")
    numbers = [getattr(signal, name) for name in names if hasattr(signal, name)]
    usual = (signal.SIG_DFL, signal.default_int_handler)
    before = {n: signal.getsignal(n) for n in numbers if signal.getsignal(n) in usual}
    reader, writer = socket.socketpair()
    writer.setblocking(False)
    watch = threading.Thread(target=_watch, args=(reader, {*before}), daemon=True)
    woken = signal.set_wakeup_fd(writer.fileno(), warn_on_full_buffer=False)
    for number in before:
        signal.signal(number, _raise)
    watch.start()
    try:
        yield
    finally:
        signal.set_wakeup_fd(woken)
        for number, handler in before.items():
            signal.signal(number, handler)
        writer.close()
        watch.join()


def _raise(number: int, _frame: Any) -> None:
    for each in signal.SIGINT, signal.SIGTERM, number:
        if signal.getsignal(each) is _raise:
            # Whoever cleans up is not interrupted again; `_watch` sees the second.
            signal.signal(each, _pass)
    if number == signal.SIGINT:
        raise KeyboardInterrupt
    raise Ended(number)


def _pass(_number: int, _frame: Any) -> None:
    pass


def _watch(reader: socket.socket, numbers: set[int]) -> None:
    """End the process at the second signal, or when it takes long after the first."""
    first: int | None = None
    with reader:
        while True:
            seconds = None if first is None else SECONDS
            if select.select([reader], [], [], seconds)[0]:
                came = reader.recv(1)
                if not came:
                    return
                if came[0] not in numbers:
                    continue
                if first is None:
                    first = came[0]
                    continue
            os._exit(128 + (first or 0))
