"""Fetch again what a verification found to differ, or to be missing."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from intake_idc.errors import RequestError
from intake_idc.formats.places import BUCKETS
from intake_idc.plan import ACTIONS
from intake_idc.storage import resolve_mirror
from intake_idc.transfer.checking import Level, Truth
from intake_idc.transfer.recorded import mirror_of
from intake_idc.transfer.records import Origin
from intake_idc.transfer.running import Limits, run
from intake_idc.transfer.verification import DIFFER, MISSING
from intake_idc.transfer.verifying import plan_of_records, verify_plan

if TYPE_CHECKING:
    from fsspec.callbacks import Callback

    from intake_idc.plan import Plan
    from intake_idc.storage import AnyMirror, Mirror
    from intake_idc.transfer.recorded import Records
    from intake_idc.transfer.report import Report
    from intake_idc.transfer.verification import Verification

__all__ = ["repair", "repair_plan"]

_KEEP, _FETCH, _REPLACE = (ACTIONS.index(a) for a in ("keep", "fetch", "replace"))
_UNLISTED = ACTIONS.index("unlisted")
_KNOWN = ("auto", "sample")
"""Mirrors that a record may name by itself."""


def repair_plan(found: Verification) -> Plan:
    """Give the plan that fetches what is missing, and replaces what differs.

    A series that is not listed stays so.
    """
    import numpy as np
    import pyarrow as pa

    verdicts = np.frombuffer(found.verdicts, np.uint8)
    actions = np.full(len(verdicts), _KEEP, np.int8)
    actions[verdicts == MISSING] = _FETCH
    actions[verdicts == DIFFER] = _REPLACE
    actions[found.plan.column("action") == _UNLISTED] = _UNLISTED
    data = pa.py_buffer(actions.tobytes())
    column = pa.Array.from_buffers(pa.int8(), len(actions), [None, data])
    objects = found.plan.objects
    place = objects.column_names.index("action")
    return replace(found.plan, objects=objects.set_column(place, "action", column))


def repair(
    target: str | os.PathLike[str],
    *,
    quick: bool = False,
    checksum: bool = False,
    subset: str | None = None,
    mirror: AnyMirror | None = None,
    callback: Callback | None = None,
    timeout: float | None = None,
) -> Report:
    """Fetch what is missing in a folder, or differs, by the record that copies left.

    What is to be there, and where it came from, is taken from the record; no index is
    needed. Nothing else is touched.

    Parameters
    ----------
    target : path
        The folder.
    quick, checksum, subset
        What is looked at; see `intake_idc.verify`.
    mirror : str, path, Mirror or list of them, optional
        Where from; by default the mirror of the newest copy, without its options,
        where that is IDC's own, or the one that the environment names.
    callback : fsspec.callbacks.Callback, optional
        Told of the bytes that are fetched.
    timeout : float, optional
        Seconds after which what is not there is given up.

    Returns
    -------
    Report
        When every object is there.

    Raises
    ------
    MissingError
        There is no record.
    TransferError
        Something is not there; ``report`` says what, and why.
    RequestError
        Copies from several mirrors lie in the folder, or from one that only the
        record names, and none is given.
    """
    level = Level.of(quick=quick, checksum=checksum, subset=subset)
    root = Path(os.path.abspath(target))  # noqa: PTH100  (a link stays one)
    place = None if mirror is None else resolve_mirror(mirror)
    records, plan = plan_of_records(root, place)
    if place is None:
        _check_mirror(records)
    found = verify_plan(plan, level, Truth(records))
    return run(
        repair_plan(found),
        callback=callback,
        checksum=records.checksum,
        limits=Limits(timeout),
        # It is of no cohort, and so holds nothing that one no longer holds.
        record=Origin(),
    )


def _check_mirror(records: Records) -> None:
    """Refuse to ask whom only the record names, and it may be anybody's.

    Raises
    ------
    RequestError
        The copies came from several mirrors; or from one that is neither IDC's nor
        what the user's environment names, or from a bucket that is not IDC's.
    """
    newest = set(records.column("run").tolist())
    used = [run for number, run in enumerate(records.runs) if number in newest]
    places = [mirror_of(run.mirror) for run in used if run.mirror]
    # AWS and Google hold the same objects.
    public = {"aws", "gcs", "auto"}
    named = {"aws" if own.name in public else own.root for own in places}
    if len(named) > 1:
        msg = (
            f"the copies in {records.target} came from "
            f"{' and '.join(sorted(named))}; name the mirror that holds them all"
        )
        raise RequestError(msg, mirrors=sorted(named))
    # With the endpoints that the user's environment names, and without.
    told = [resolve_mirror(), *map(resolve_mirror, _KNOWN)]
    told += [resolve_mirror(name, environment=False) for name in _KNOWN]
    known = {_place(own) for each in told for own in each.every}
    buckets = set(records.series.column("aws_bucket").to_pylist()) - {None, ""}
    for own in (each for place in places for each in place.every):
        foreign = "" if _place(own) in known else own.endpoint_url or own.root
        if not foreign and "{" in own.root:
            foreign = min(buckets - BUCKETS, default="")
        if foreign:
            msg = (
                f"the record in {records.target} names {foreign!r} to fetch from, and "
                "may be anybody's; name the mirror if it is yours"
            )
            raise RequestError(msg, mirrors=[foreign])


def _place(mirror: Mirror) -> tuple[str, str | None]:
    return mirror.root, mirror.endpoint_url
