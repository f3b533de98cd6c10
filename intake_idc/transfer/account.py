"""What has become of the objects of a copy by now, whoever fetches them."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from intake_idc.plan import ACTIONS
from intake_idc.transfer.fetching import FAILED, KEPT, Done
from intake_idc.transfer.report import Hashes, Report, Times

if TYPE_CHECKING:
    from collections.abc import Iterable

    from intake_idc.plan import Plan

__all__ = ["NOBODY", "Account"]

NOBODY = 255
"""Stands for the mirror of what none served, and for what is not done."""
CODES = {"hash": 5, "space": 6}
"""What a copy ends with by what kept an object from being there; else with 4."""


class Account:
    """Notes outcomes as they come, and gives the report.

    Parameters
    ----------
    plan : Plan
        What is to be done.
    mirrors : iterable of str
        Names of the mirrors that are asked.
    """

    def __init__(self, plan: Plan, mirrors: Iterable[str]) -> None:
        self.plan = plan
        self.mirrors = list(mirrors)
        self.code = 4
        """What the copy ends with where something is not there."""
        kept = plan.column("action") == ACTIONS.index("keep")
        self._statuses = bytearray([NOBODY, KEPT][kind] for kind in kept.tolist())
        self._served = bytearray([NOBODY]) * len(plan)
        self._reasons: dict[int, str] = {}
        self._hashes = Hashes(len(plan))
        self._retries: dict[int, int] = {}
        self._mtimes = Times(len(plan))

    def take(self, done: Done) -> None:
        """Note what became of an object."""
        row = done.row
        self._statuses[row] = done.status
        if done.status == FAILED:
            self._reasons[row] = done.reason
            self.code = max(self.code, CODES.get(done.kind, 4))
            return
        self._served[row] = done.mirror
        self._mtimes[row] = done.mtime
        if done.hash:
            self._hashes[row] = done.hash
        if done.retries:
            self._retries[row] = done.retries

    def report(self, seconds: float, why: str) -> Report:
        """Give the report; what is not done has failed, for its reason or for this."""
        for row, status in enumerate(self._statuses):
            if status == NOBODY:
                self._statuses[row] = FAILED
                self._reasons[row] = self.plan.reasons.get(row, why)
        return replace(self.so_far(), seconds=seconds)

    def so_far(self) -> Report:
        """Give what is done by now; the status of what is not is 255."""
        return Report(
            self.plan,
            bytes(self._statuses),
            self._reasons,
            tuple(self.mirrors),
            bytes(self._served),
            self._hashes,
            self._retries,
            self._mtimes,
        )
