"""What footers said of the columns of a table, kept for the next query.

The footers of a wide table are a large part of it: half a megabyte for each file of
`dicom_all`, two gigabytes together. Of them the bounds of the columns that conditions
name are kept, in the process, and in the cache where a store tells what changes when a
file does: an entity tag, or time and inode.
"""

from __future__ import annotations

import datetime as dt
import hashlib
import json
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from intake_idc import cache
from intake_idc.export.parquet import Bounds

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from intake_idc.export.parquet import ExportFile

__all__ = ["Remembered"]

FORM = 1
"""Number of the form in which bounds are written."""


class Remembered:
    """Bounds by file and column.

    Parameters
    ----------
    table : str
        What the files are of, and where they lie.
    """

    def __init__(self, table: str) -> None:
        digest = hashlib.sha256(table.encode()).hexdigest()[:32]
        self._name = f"export/{digest}.json"
        self._known: dict[ExportFile, Mapping[str, Sequence[Bounds | None]]] = {}
        self._opened = self._learned = False

    # Threads share this without a lock, which a fork would copy as it is: what is
    # known of a file is replaced, never changed, and what two threads learn at once
    # may be learned again.

    def of(
        self, file: ExportFile, files: Sequence[ExportFile]
    ) -> Mapping[str, Sequence[Bounds | None]]:
        """Give what is known of a file, which is one of ``files``."""
        if not self._opened:
            self._known = self._read(files) | self._known
            self._opened = True
        return self._known.get(file, {})

    def learn(
        self,
        file: ExportFile,
        bounds: Mapping[str, Sequence[Bounds | None]],
        files: Sequence[ExportFile],
    ) -> None:
        """Add what a footer said."""
        known = self.of(file, files)
        if not set(bounds) <= set(known):
            self._known[file] = {**known, **bounds}
            self._learned = True

    def keep(self) -> None:
        """Write down what was learned, if there is a cache to write to."""
        if not self._learned or cache.folder() is None:
            return
        self._learned = False
        rows = [
            [file.key, file.size, file.etag, {n: _plain(b) for n, b in known.items()}]
            for file, known in list(self._known.items())
            if file.etag and known
        ]
        if rows:
            # A full disk costs the next process some requests, and nothing else.
            with suppress(OSError), cache.adding(self._name) as part:
                part.write_text(json.dumps([FORM, rows]), "utf-8")

    def _read(
        self, files: Sequence[ExportFile]
    ) -> dict[ExportFile, Mapping[str, Sequence[Bounds | None]]]:
        path = cache.find(self._name)
        if path is None:
            return {}
        by_state = {(f.key, f.size, f.etag): f for f in files if f.etag}
        found: dict[ExportFile, Mapping[str, Sequence[Bounds | None]]] = {}
        try:
            form, rows = json.loads(path.read_text("utf-8"))
            for key, size, etag, known in rows if form == FORM else ():
                file = by_state.get((key, size, etag))
                if file is not None:
                    found[file] = {name: _bounds(b) for name, b in known.items()}
        except (OSError, ValueError, TypeError, LookupError, AttributeError):
            # Somebody's hand was in the cache: the footers are read again.
            return {}
        return found


def _plain(bounds: Sequence[Bounds | None]) -> list[Any]:
    def value(found: Any) -> Any:
        return {"date": found.isoformat()} if isinstance(found, dt.date) else found

    return [b and [value(b.low), value(b.high), b.nulls, b.rows] for b in bounds]


def _bounds(rows: Sequence[Any]) -> list[Bounds | None]:
    def value(found: Any) -> Any:
        dated = isinstance(found, dict)
        return dt.date.fromisoformat(found["date"]) if dated else found

    return [
        row and Bounds(value(row[0]), value(row[1]), row[2], row[3]) for row in rows
    ]
