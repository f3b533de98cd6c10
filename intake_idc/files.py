"""Paths that hold in any folder, and files that are there only when they are whole."""

from __future__ import annotations

import os
import secrets
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

__all__ = ["beside", "whole_path"]


def whole_path(path: str | os.PathLike[str]) -> str:
    """Give a path whole, which is read from another folder too; a URL as it is."""
    text = os.fspath(path)
    if "://" in text or "::" in text:
        return text
    return os.path.abspath(text)  # noqa: PTH100


@contextmanager
def beside(path: Path) -> Iterator[Path]:
    """Give a file beside a path, which takes its place as the last act.

    Where the body raises, the path is left as it was, and nothing stays beside it.
    Its folder is made if need be.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    # Two threads may write the same file; a long name leaves no room for its own.
    part = path.with_name(f".idc-{os.getpid()}-{secrets.token_hex(8)}.part")
    try:
        yield part
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)
