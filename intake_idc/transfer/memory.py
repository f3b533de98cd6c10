"""How many bytes all threads of a copy hold together."""

from __future__ import annotations

import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["Memory"]


class Memory:
    """Bytes that may be held at once.

    Parameters
    ----------
    size : int
        How many.
    """

    def __init__(self, size: int) -> None:
        self._left = size
        self._condition = threading.Condition()

    def take(self, size: int, *, wait: bool = False) -> bool:
        """Hold so many bytes; False where they may not be, unless it is waited."""
        with self._condition:
            while self._left < size:
                if not wait:
                    return False
                self._condition.wait()
            self._left -= size
        return True

    def give(self, size: int) -> None:
        """Hold them no longer."""
        with self._condition:
            self._left += size
            self._condition.notify_all()

    @contextmanager
    def taken(self, size: int) -> Iterator[None]:
        """Wait until so many bytes may be held, and hold them."""
        self.take(size, wait=True)
        try:
            yield
        finally:
            self.give(size)
