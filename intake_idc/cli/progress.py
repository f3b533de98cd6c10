"""One line on standard error that says how far a copy is."""

from __future__ import annotations

import shutil
import sys
import time
from typing import Any

from fsspec.callbacks import Callback

from intake_idc import display

__all__ = ["Line"]

EVERY_SECONDS = 0.2
"""Seconds between two states of the line."""
SHORT_SECONDS = 100
"""Seconds that are said as such; longer times are minutes."""


class Line(Callback):  # type: ignore[misc]
    """Shows bytes, share, rate and the time that is left; fsspec tells it of bytes."""

    def __init__(self) -> None:
        super().__init__()
        self._began = self._shown = time.monotonic()
        self._there = False

    def set_size(self, size: int) -> None:
        """Begin: the time until then went into listing."""
        self._began = self._shown = time.monotonic()
        super().set_size(size)

    def call(self, hook_name: str | None = None, **_arguments: Any) -> None:
        """Write the line anew, now and then. fsspec names no hook here."""
        del hook_name
        now = time.monotonic()
        if now - self._shown >= EVERY_SECONDS:
            self._shown = now
            self._write(self._text(now - self._began))

    def close(self) -> None:
        """Take the line away: the report follows."""
        if self._there:
            self._write("")

    def _text(self, seconds: float) -> str:
        done, size = int(self.value), int(self.size or 0)
        rate = done / seconds if seconds else 0.0
        share = f"{done / size:.0%}" if size else ""
        left = (size - done) / rate if rate else 0.0
        words = f"{left:.0f} s" if left < SHORT_SECONDS else f"{left / 60:.0f} min"
        return (
            f"{display.bytes_text(done)} of {display.bytes_text(size)}  {share}  "
            f"{display.bytes_text(rate)}/s  {words} left"
        )

    def _write(self, text: str) -> None:
        self._there = bool(text)
        width = shutil.get_terminal_size().columns - 1
        sys.stderr.write(f"\r{text[:width]:<{width}}" + ("\r" if not text else ""))
        sys.stderr.flush()
