"""What was found where a folder was held against what is to be there."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Literal, NamedTuple, get_args

from intake_idc import display
from intake_idc.files import beside
from intake_idc.plan import Plan

__all__ = [
    "DIFFER",
    "EXTRA",
    "MATCH",
    "MISSING",
    "UNREADABLE",
    "UNVERIFIABLE",
    "VERDICTS",
    "Finding",
    "Verdict",
    "Verification",
]

Verdict = Literal["match", "differ", "missing", "extra", "unverifiable"]
VERDICTS: tuple[Verdict, ...] = get_args(Verdict)
"""Verdicts by their number in `Verification.verdicts`."""
MATCH, DIFFER, MISSING, EXTRA, UNVERIFIABLE = range(len(VERDICTS))
SIGNS = "=*+-?"
"""Signs of the verdicts in `Verification.lines`, as ``rclone check`` has them."""
UNREADABLE = "unreadable"
"""What differs of a file that cannot be read."""
SHOWN = 10


class Finding(NamedTuple):
    """What was found of one object, or of one file that is none."""

    verdict: Verdict
    """``match``, ``differ``, ``missing``, ``extra`` or ``unverifiable``."""
    path: Path
    """Where it is, or would be."""
    what: str = ""
    """Of what differs: ``size``, ``hash``, ``identity``, ``link`` or
    ``unreadable``."""
    reason: str = ""
    """Why, in words."""
    url: str = ""
    """Of which object; empty for what is none."""
    size: int | None = None
    """Bytes that it is to have."""


@dataclass(frozen=True, eq=False)
class Verification:
    """How a folder compares with what is to be there, object by object."""

    target: Path
    """The folder."""
    plan: Plan
    """What is to be there."""
    verdicts: bytes
    """Place in `VERDICTS` of each row of the plan."""
    remarks: Sequence[int] = field(default=(), repr=False)
    """Place in ``reasons`` of each row of the plan."""
    reasons: Sequence[tuple[str, str]] = field(default=(), repr=False)
    """What differs, and why, of all rows that have the same."""
    others: tuple[str, ...] = ()
    """Paths below the target of files that are no object: notices and records left
    out."""
    read: int = 0
    """Files that were read."""

    def _paths(self, verdict: int) -> tuple[Path, ...]:
        return tuple(
            self.target / self.plan.path(row)
            for row in self.plan.rows()
            if self.verdicts[row.row] == verdict
        )

    @cached_property
    def match(self) -> tuple[Path, ...]:
        """Objects that are there, and what they should be as far as was looked at."""
        return self._paths(MATCH)

    @cached_property
    def differ(self) -> tuple[Path, ...]:
        """Objects in whose place there is something else."""
        return self._paths(DIFFER)

    @cached_property
    def missing(self) -> tuple[Path, ...]:
        """Objects that are not there; of a series that is not listed, its folder."""
        return self._paths(MISSING)

    @cached_property
    def extra(self) -> tuple[Path, ...]:
        """Files that are none of the objects, and links."""
        return tuple(self.target / path for path in self.others)

    @cached_property
    def unverifiable(self) -> tuple[Path, ...]:
        """Objects of the right name and size, of whose bytes nothing is known."""
        return self._paths(UNVERIFIABLE)

    @cached_property
    def counts(self) -> dict[str, int]:
        """Number of objects by verdict."""
        found: dict[str, int] = {}
        for number, name in enumerate(VERDICTS):
            found[name] = self.verdicts.count(number)
        return found | {"extra": len(self.others)}

    @property
    def ok(self) -> bool:
        """Whether nothing differs, is missing, or is a DICOM object too many.

        A folder with objects of another release of a series is not that series.
        Other files do not matter, nor do objects that cannot be verified.
        """
        foreign = any(path.endswith(".dcm") for path in self.others)
        return not self.counts["differ"] and not self.counts["missing"] and not foreign

    @property
    def findings(self) -> Iterator[Finding]:
        """What was found, object by object, and then every other file."""
        for row in self.plan.rows():
            verdict = VERDICTS[self.verdicts[row.row]]
            what, reason = self.reasons[self.remarks[row.row]]
            path = self.target / self.plan.path(row)
            yield Finding(verdict, path, what, reason, self.plan.url(row), row.size)
        for other in self.others:
            yield Finding("extra", self.target / other, reason="it is no object")

    def lines(self) -> Iterator[str]:
        """Give a line for each object and each other file, as ``rclone check`` does.

        ``=`` matches, ``*`` differs, ``+`` is missing in the folder, ``-`` is there and
        is no object, ``!`` cannot be read, ``?`` cannot be verified; then a blank, and
        the path below the folder.
        """
        for found in self.findings:
            sign = SIGNS[VERDICTS.index(found.verdict)]
            path = found.path.relative_to(self.target).as_posix()
            yield f"{'!' if found.what == UNREADABLE else sign} {path}"

    def to_jsonl(self, path: str | os.PathLike[str]) -> None:
        """Write one line of JSON for each finding, whole or not at all.

        Each has ``verdict``, ``path``, ``what``, ``reason``, ``url`` and ``size``, as
        `Finding` has them.
        """
        with beside(Path(path)) as part, part.open("x", encoding="utf-8") as file:
            for found in self.findings:
                row = {**found._asdict(), "path": str(found.path)}
                file.write(json.dumps(row, ensure_ascii=False) + "\n")

    def _items(self) -> list[tuple[str, object]]:
        counts = self.counts
        items: list[tuple[str, object]] = [
            (name, f"{counts[name]:,}") for name in VERDICTS[:4]
        ]
        if counts["unverifiable"]:
            items.append(("unverifiable", f"{counts['unverifiable']:,}"))
        return [*items, *([("files read", f"{self.read:,}")] if self.read else [])]

    def _worst(self) -> Iterator[Finding]:
        """Give the first findings of each kind that is no match."""
        seen = dict.fromkeys(VERDICTS, 0)
        seen["match"] = SHOWN
        for found in self.findings:
            if seen[found.verdict] < SHOWN:
                seen[found.verdict] += 1
                yield found
            elif all(count >= SHOWN for count in seen.values()):
                return

    def __str__(self) -> str:
        lines = [display.pairs(f"Verified {self.target}", self._items())]
        for found in self._worst():
            reason = f" ({found.reason})" if found.reason else ""
            lines.append(f"  {found.verdict}: {found.path}{reason}")
        return "\n".join(lines)

    def __repr__(self) -> str:
        counts = ", ".join(f"{name} {many:,}" for name, many in self.counts.items())
        return f"<Verification of {self.target}: {counts}>"

    def _repr_html_(self) -> str:
        text = display.pairs_html(f"Verified {self.target}", self._items())
        rows = [(found.verdict, found.path, found.reason) for found in self._worst()]
        if not rows:
            return text
        return text + display.rows_html("", ["verdict", "path", "reason"], rows)
