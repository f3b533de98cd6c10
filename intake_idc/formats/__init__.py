"""Manifests as text and back, with every line accounted for.

A manifest is data: verbs, flags and destinations in it are read and never obeyed.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from intake_idc.errors import ManifestError

__all__ = ["Lines", "Problem", "check_problems"]

SHOWN = 10
"""Problems that an error spells out; the rest is counted."""


@dataclass(frozen=True)
class Problem:
    """One line of a manifest that was not taken as it stands."""

    line: int
    """Number of the line, from 1."""
    text: str
    """The line, cut at 200 characters."""
    reason: str
    """What is wrong, and what to do."""
    rejected: bool = True
    """Whether the line gave no row; else it was taken, with this remark."""

    def __str__(self) -> str:
        return f"line {self.line}: {self.reason}: {self.text!r}"


@dataclass(frozen=True)
class Lines:
    """What a manifest names, before a release has been asked."""

    numbers: list[int] = field(default_factory=list)
    """Line that each series was read from."""
    texts: list[str] = field(default_factory=list)
    """That line, for reports."""
    uuids: list[str] = field(default_factory=list)
    """``crdc_series_uuid`` of each series, in lower case."""
    problems: list[Problem] = field(default_factory=list)
    """Lines that were rejected, or taken with a remark."""
    idc_versions: list[int] = field(default_factory=list)
    """Releases that the manifest's own header names."""

    def reject(self, line: int, text: str, reason: str) -> None:
        """Account for a line that gives no row."""
        self.problems.append(Problem(line, text[:200], reason))

    def remark(self, line: int, text: str, reason: str) -> None:
        """Account for a line that was taken with a remark."""
        self.problems.append(Problem(line, text[:200], reason, rejected=False))


def check_problems(name: str, problems: list[Problem], *, taken: int) -> None:
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
        f"{name}: {len(rejected):,} lines cannot be used ({taken:,} can); "
        "mend them, or give problems='report' to go on without them:\n"
        f"  {listed}{tail}"
    )
    raise ManifestError(msg, problems=tuple(problems), name=name)
