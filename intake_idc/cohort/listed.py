"""A cohort that is a list of series, not a question."""

from __future__ import annotations

from typing import TYPE_CHECKING

from intake_idc.arrow import integers, pack_uuids, texts
from intake_idc.cohort.cohort import Cohort
from intake_idc.errors import EmptySelection
from intake_idc.release.listed import ListedRows, find

if TYPE_CHECKING:
    from collections.abc import Sequence

    from intake_idc.formats import Problem
    from intake_idc.release import Release
    from intake_idc.storage import Mirror

__all__ = ["listed_cohort"]


def listed_cohort(
    release: Release,
    uuids: Sequence[str],
    *,
    origin: str,
    mirror: Mirror | None = None,
    problems: Sequence[Problem] = (),
) -> Cohort:
    """Give the series with these uuids as a cohort, in this order.

    Every uuid is one of the release; those that are not are left out, so look first.

    Raises
    ------
    EmptySelection
        There is none.
    """
    import numpy as np

    packed = pack_uuids(texts(list(uuids)))[0]
    there = np.flatnonzero(find(release, packed) >= 0)
    if not len(there):
        msg = f"{origin} names no series of release {release.idc_version}"
        raise EmptySelection(msg)
    if len(there) < len(packed):
        packed = packed.take(integers(there.tolist()))
    rows = ListedRows(release, packed, origin)
    return Cohort(rows, mirror=mirror, problems=tuple(problems))
