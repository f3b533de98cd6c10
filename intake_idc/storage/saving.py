"""Writing one object to a file of this machine: whole under its name, or not at all."""

from __future__ import annotations

from typing import TYPE_CHECKING

from intake_idc.errors import WrongSize
from intake_idc.files import beside

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from pathlib import Path

    from intake_idc.storage.engine import Data

__all__ = ["save"]


def save(
    chunks: Iterable[Data],
    path: Path,
    size: int,
    url: str,
    advance: Callable[[int], object],
) -> None:
    """Write bytes beside their place, count them, and rename the file as the last act.

    Parameters
    ----------
    chunks : iterable of bytes
        The bytes, as they come.
    path : Path
        Where they go; its folder is made if need be.
    size : int
        Bytes that the store has announced.
    url : str
        Where they come from, for the error.
    advance : callable
        Told of the bytes of each chunk.

    Raises
    ------
    WrongSize
        More or fewer bytes came.
    """
    written = 0
    with beside(path) as part:
        with part.open("xb") as file:
            for chunk in chunks:
                written += len(chunk)
                if written > size:
                    break
                file.write(chunk)
                advance(len(chunk))
        if written != size:
            msg = f"{url}: got {written} bytes or more, listed were {size}"
            raise WrongSize(msg, url=url, got=written, expected=size)
