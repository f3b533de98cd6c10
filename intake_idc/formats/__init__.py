"""Manifests as text and back, in every dialect, with every line accounted for.

A manifest is data: verbs, flags and destinations in it are read and never obeyed.

Reading goes ``source`` (bytes, from wherever) -> ``recognising`` (which dialect) ->
``lines`` or ``tabular`` (one pass) -> `Listing`: what is named, by column, with the
problems. A release is asked afterwards, by others.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from intake_idc.errors import ManifestError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    import pyarrow as pa

__all__ = [
    "BIGQUERY",
    "NAMES",
    "UUID_NAMES",
    "Listing",
    "Problem",
    "check_problems",
]

BIGQUERY = "bigquery://"
"""How the name of a table in BigQuery begins."""

SHOWN = 10
"""Problems that an error spells out; the rest is counted."""

UUID_NAMES = ("crdc_series_uuid", "crdc_instance_uuid", "crdc_study_uuid")
"""Names that are uuids, held as 16 bytes."""

NAMES = (
    "crdc_series_uuid",
    "crdc_instance_uuid",
    "SeriesInstanceUID",
    "SOPInstanceUID",
    "StudyInstanceUID",
    "PatientID",
    "collection_id",
    "crdc_study_uuid",
    "uuid",
    "uid",
    "idc_version",
    "bucket",
)
"""Columns that a listing may have. ``uuid`` and ``uid`` are a uuid and a DICOM UID of
a kind that the manifest does not tell; ``idc_version`` is the release of the row, and
``bucket`` one that is not IDC's."""


@dataclass(frozen=True)
class Problem:
    """One line of a manifest that was not taken as it stands."""

    line: int
    """Number of the line, or of the row, from 1."""
    text: str
    """The line, cut at 200 characters."""
    reason: str
    """What is wrong, and what to do."""
    rejected: bool = True
    """Whether the line gave no row; else it was taken, with this remark."""
    part: str = ""
    """The file, where a manifest comes in several."""

    def __str__(self) -> str:
        where = f"{self.part}, line {self.line}" if self.part else f"line {self.line}"
        return f"{where}: {self.reason}: {self.text!r}"


@dataclass(frozen=True)
class Listing:
    """What a manifest names, row by row, before a release has been asked."""

    kind: str
    """The dialect."""
    names: pa.Table
    """A row for each line that names something, in order: ``line`` (int64, from 1) and
    some of `NAMES`: uuids as fixed_size_binary(16), ``idc_version`` as int64, the
    others as strings. Of a row the narrowest names count."""
    problems: list[Problem] = field(default_factory=list)
    """Lines that were rejected, or taken with a remark."""
    idc_versions: tuple[int, ...] = ()
    """Releases that the manifest's own header names."""
    reread: Callable[[Sequence[int]], dict[int, str]] | None = None
    """Gives the text of lines by their numbers, for reports."""
    part: str = ""
    """The file, where a manifest comes in several."""

    def texts(self, lines: Iterable[int]) -> dict[int, str]:
        """Give the text of some lines, as far as they can be had again."""
        wanted = sorted(set(lines))
        return self.reread(wanted) if self.reread is not None and wanted else {}


def check_problems(name: str, problems: Sequence[Problem], *, taken: int) -> None:
    """Raise when a line was rejected.

    Raises
    ------
    ManifestError
        With the first ten problems spelled out, and all of them in ``problems``.
    """
    rejected = [problem for problem in problems if problem.rejected]
    if not rejected:
        return
    listed = "\n  ".join(str(problem) for problem in rejected[:SHOWN])
    more = len(rejected) - SHOWN
    tail = f"\n  and {more:,} more" if more > 0 else ""
    msg = (
        f"{name}: {len(rejected):,} lines cannot be used (the others name {taken:,} "
        "series); "
        "mend them, or give problems='report' to go on without them:\n"
        f"  {listed}{tail}"
    )
    raise ManifestError(msg, problems=tuple(problems), name=name)
