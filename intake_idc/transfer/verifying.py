"""Hold a folder against what is to be there: a listing, the index, or its record.

Names, counts and sizes say what can be said without reading a file. Bytes are held
against the strongest thing that is known of them: the MD5 that a release states, an
entity tag that is one, what was computed when they were copied. Where nothing is
known the answer is "unverifiable", and the identity in the header still tells files
that were swapped.
"""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from intake_idc.arrow import one, packed
from intake_idc.errors import MissingError
from intake_idc.plan import ACTIONS, Plan
from intake_idc.transfer.checking import Check, Level, Truth
from intake_idc.transfer.places import FOLDER_OF_RECORDS
from intake_idc.transfer.recalling import read_records
from intake_idc.transfer.recorded import mirror_of

if TYPE_CHECKING:
    import numpy as np
    import pyarrow as pa

    from intake_idc.storage import Mirror
    from intake_idc.transfer.recorded import Records
    from intake_idc.transfer.verification import Verification

__all__ = ["plan_of_records", "verify", "verify_plan"]

_UNLISTED = ACTIONS.index("unlisted")


def verify(
    target: str | os.PathLike[str],
    *,
    quick: bool = False,
    checksum: bool = False,
    subset: str | None = None,
) -> Verification:
    """Hold a folder against the record that copies left in it, and against no other.

    No index, cohort or network is needed. Every object that some copy into this
    folder was to put there is looked for, and every other file of the folder is
    ``extra``.

    Parameters
    ----------
    target : path
        The folder.
    quick : bool
        Compare names and sizes, and read no file. Without it those are read too
        whose time of change is not that of the copy.
    checksum : bool
        Read every file, and compare the MD5 that the release states, the hash that
        was computed when it was copied, and the entity tag of the store.
    subset : str, optional
        ``"n/t"``: read, as ``checksum`` does, the ``n``-th of ``t`` shares of the
        files, such as ``"1/20"``. ``t`` runs read them all.

    Raises
    ------
    MissingError
        There is no record, or no such folder.
    RequestError
        The arguments do not go together.
    IntegrityError
        A record is damaged.
    """
    level = Level.of(quick=quick, checksum=checksum, subset=subset)
    root = Path(os.path.abspath(target))  # noqa: PTH100  (a link stays one)
    records, plan = plan_of_records(root)
    # Nobody is asked: the record says where, and may be anybody's.
    plan = replace(plan, mirror=replace(plan.mirror, engine=None))
    return verify_plan(plan, level, Truth(records), whole=True)


def plan_of_records(target: Path, mirror: Mirror | None = None) -> tuple[Records, Plan]:
    """Give what is written down of a folder, and the plan that it comes to.

    Every object of the plan is kept; its mirror is that of the newest run.

    Raises
    ------
    MissingError
        There is no record.
    """
    import numpy as np
    import pyarrow as pa

    found = read_records(target)
    if found is None:
        msg = (
            f"{target} has no record of a copy (in {FOLDER_OF_RECORDS}); verify it "
            "against the cohort that it should hold"
        )
        raise MissingError(msg, path=str(target))
    records = found.newest()
    newest = np.unique(records.column("run")).tolist()
    told = [own for own in map(records.runs.__getitem__, newest) if own.mirror]
    own = dict(told[-1].mirror) if told else {"mirror": "aws"}
    place = mirror_of(own) if mirror is None else mirror
    etag = records.tags_of(place)
    count = len(records)
    keep = np.full(count, ACTIONS.index("keep"), np.int8)
    nameless = np.fromiter((not own for (own,) in records.values("name")), bool, count)
    keep[nameless] = _UNLISTED
    reason = "the series could not be listed when it was copied"
    reasons = dict.fromkeys(np.flatnonzero(nameless).tolist(), reason)
    objects = pa.table(
        {
            "series": one(records.objects.column("series")),
            "action": _bytes_column(keep),
            "name": one(records.objects.column("name")),
            "file": one(records.objects.column("file")),
            "size": one(records.objects.column("size")),
            "etag": etag,
            "md5": _md5s(records),
        }
    )
    plan = Plan(target, records.series, objects, place, reasons)
    return records, plan


def _md5s(records: Records) -> pa.Array:
    """Give the MD5s that are stated, else those that were computed."""
    stated = one(records.objects.column("md5"))
    if records.checksum != "md5" or not stated.null_count:
        return stated
    known = (
        (md5, hash_[4:] if hash_ and hash_.startswith("md5:") else "")
        for md5, hash_ in records.values("md5", "hash")
    )
    return packed([md5 or (bytes.fromhex(own) if own else None) for md5, own in known])


def _bytes_column(values: np.ndarray[Any, Any]) -> pa.Array:
    import pyarrow as pa

    data = pa.py_buffer(values.tobytes())
    return pa.Array.from_buffers(pa.int8(), len(values), [None, data])


def verify_plan(
    plan: Plan,
    level: Level | None = None,
    truth: Truth | None = None,
    *,
    whole: bool = False,
) -> Verification:
    """Compare a folder with a plan that was made for it.

    Parameters
    ----------
    plan : Plan
        What is to be there; what it says of what is there does not matter.
    level : Level
        How much is looked at.
    truth : Truth
        What else is known.
    whole : bool
        Whether every other file of the folder is reported; else those that are in the
        folders of the plan's series.

    Raises
    ------
    PlanError
        Objects of the plan collide, or cannot have their paths.
    """
    plan.check()
    check = Check(plan, level or Level(), truth or Truth())
    check.run()
    if whole:
        check.walk()
    return check.result()
