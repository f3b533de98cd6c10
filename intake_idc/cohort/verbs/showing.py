"""A cohort as text and as HTML."""

from __future__ import annotations

from intake_idc import display
from intake_idc.cohort.verbs.asking import Asking
from intake_idc.release import Release

__all__ = ["Showing"]


class Showing(Asking):
    """How a cohort shows itself."""

    def _items(self) -> list[tuple[str, object]]:
        counts = self.counts()
        licenses = ", ".join(
            f"{name or 'unknown'} ({count:,})"
            for name, count in self.licenses().items()
        )
        counted: list[tuple[str, object]] = [
            (name, f"{counts[name]:,}")
            for name in ("series", "studies", "patients", "collections")
        ]
        gone = ", ".join(f"{name} ({count:,})" for name, count in self.left_out.items())
        left_out: list[tuple[str, object]] = [("left out", gone or "nothing")]
        rejected = sum(problem.rejected for problem in self.problems)
        remarked = len(self.problems) - rejected
        lines: list[tuple[str, object]] = [
            ("lines left out", f"{rejected:,}"),
            ("lines remarked", f"{remarked:,}"),
        ]
        rebuilt: list[tuple[str, object]] = []
        if isinstance(self.rows, Release) and not self.rows.published:
            rebuilt = [("rebuilt", self.rows.rebuilt)]
        locked: list[tuple[str, object]] = []
        if self.locked is not None:
            sureness = self.locked.release.get("sureness")
            locked = [("sureness", sureness)] if sureness != "exact" else []
            # Of a part of the lock this is not the digest.
            part = "part of lock" if self.selection else "lock"
            locked.append((part, self.locked.digest))
        return [
            ("where", self._where),
            *counted,
            ("instances", f"{counts['instances']:,}"),
            ("size", display.bytes_text(counts["bytes"])),
            ("licences", licenses or "-"),
            *(left_out if self.selection.commercial_use else []),
            ("source", self.rows.source),
            *rebuilt,
            *locked,
            *(lines if self.problems else []),
        ]

    @property
    def _title(self) -> str:
        if self.locked is None:
            return f"Cohort of IDC release {self.idc_version}"
        source = self.locked.release.get("source", "tables of no name")
        return f"Locked cohort of IDC release {self.idc_version} from {source}"

    def __str__(self) -> str:
        return display.pairs(self._title, self._items())

    def __repr__(self) -> str:
        return f"<{self._title}: {self._where}>"

    def _repr_html_(self) -> str:
        return display.pairs_html(self._title, self._items())
