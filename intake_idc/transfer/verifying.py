"""Hold a folder against what is to be there."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING

from intake_idc import display
from intake_idc.errors import RequestError
from intake_idc.storage import each
from intake_idc.transfer.notices import NOTICES
from intake_idc.transfer.places import LocalPlace

if TYPE_CHECKING:
    from pathlib import Path

    from intake_idc.plan import Plan

__all__ = ["Verification", "verify"]


@dataclass(frozen=True)
class Verification:
    """How a folder compares with a plan: names, counts and sizes."""

    target: Path
    """The folder."""
    match: tuple[Path, ...]
    """Objects that are there with the right size."""
    differ: tuple[Path, ...]
    """Objects that are there with another size."""
    missing: tuple[Path, ...]
    """Objects that are not there."""
    extra: tuple[Path, ...]
    """Other files in the folders of the plan's series, notices left out."""

    @property
    def ok(self) -> bool:
        """Whether every object is there with the right size, and no other.

        A folder with objects of another release of a series is not that series.
        Files that are no DICOM objects do not matter.
        """
        foreign = any(path.suffix == ".dcm" for path in self.extra)
        return not self.differ and not self.missing and not foreign

    def _items(self) -> list[tuple[str, object]]:
        return [
            (name, f"{len(getattr(self, name)):,}")
            for name in ("match", "differ", "missing", "extra")
        ]

    def __str__(self) -> str:
        return display.pairs(f"Verified {self.target}", self._items())

    def _repr_html_(self) -> str:
        return display.pairs_html(f"Verified {self.target}", self._items())


def verify(plan: Plan, *, checksum: bool = False) -> Verification:
    """Compare a folder with a plan that was made for it.

    Parameters
    ----------
    plan : Plan
        Made with what is there.
    checksum : bool
        Read every file that is there, and compare its MD5 as well.

    Raises
    ------
    RequestError
        ``checksum`` is asked for, and the MD5 of an object is not known.
    """
    by_action: dict[str, list[Path]] = {"keep": [], "replace": [], "fetch": []}
    for step in plan.steps:
        name = "fetch" if step.action == "unlisted" else step.action
        by_action[name].append(plan.target / step.path)
    if checksum:
        same = _same_bytes(plan)
        by_action["replace"] += [p for p in by_action["keep"] if p not in same]
        by_action["keep"] = [p for p in by_action["keep"] if p in same]
    planned = {step.path for step in plan.steps}
    place = LocalPlace(plan.target)
    found = {
        f"{folder}/{name}" if folder else name
        for folder in dict.fromkeys(plan.series.column("folder").to_pylist())
        for name in place.present(folder)
    }
    others = (p for p in sorted(found - planned) if not NOTICES.fullmatch(p))
    extra = tuple(plan.target / path for path in others)
    return Verification(
        plan.target,
        tuple(by_action["keep"]),
        tuple(by_action["replace"]),
        tuple(by_action["fetch"]),
        extra,
    )


def _same_bytes(plan: Plan) -> set[Path]:
    """Give the files whose MD5 is that of their object."""
    kept = [step for step in plan.steps if step.action == "keep"]
    for step in plan.steps:
        if step.instance.md5 is None:
            msg = (
                f"the MD5 of {step.instance.url} is not known; give the cohort a table "
                "of its objects with hashes, by with_instances(...)"
            )
            raise RequestError(msg, url=step.instance.url)
    hashed = each(_md5, [plan.target / step.path for step in kept])
    return {
        plan.target / step.path
        for step, md5 in zip(kept, hashed, strict=True)
        if md5 == step.instance.md5
    }


def _md5(path: Path) -> str:
    # Not against an attacker: it is what IDC publishes.
    md5 = hashlib.md5(usedforsecurity=False)
    try:
        with path.open("rb") as file:
            while chunk := file.read(1 << 20):
                md5.update(chunk)
    except OSError:
        # What cannot be read, or is gone by now, is not the object.
        return ""
    return md5.hexdigest()
