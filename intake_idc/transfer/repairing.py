"""Fetch again what a verification found to differ, or to be missing."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from intake_idc.errors import RequestError
from intake_idc.plan import ACTIONS
from intake_idc.transfer.checking import Level, Truth
from intake_idc.transfer.recalling import read_records
from intake_idc.transfer.recorded import mirror_of
from intake_idc.transfer.records import Origin
from intake_idc.transfer.running import Limits, run
from intake_idc.transfer.verification import DIFFER, MISSING
from intake_idc.transfer.verifying import plan_of_records, verify_plan

if TYPE_CHECKING:
    from fsspec.callbacks import Callback

    from intake_idc.plan import Plan
    from intake_idc.storage import AnyMirror
    from intake_idc.transfer.report import Report
    from intake_idc.transfer.verification import Verification

__all__ = ["repair", "repair_plan"]

_KEEP, _FETCH, _REPLACE = (ACTIONS.index(a) for a in ("keep", "fetch", "replace"))
_UNLISTED = ACTIONS.index("unlisted")


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
        Where from; by default the mirror of the newest copy, without its options.
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
        Copies from several mirrors lie in the folder, and none is named.
    """
    from intake_idc.storage import resolve_mirror

    level = Level.of(quick=quick, checksum=checksum, subset=subset)
    root = Path(os.path.abspath(target))  # noqa: PTH100  (a link stays one)
    if mirror is None:
        _check_one_mirror(root)
    place = None if mirror is None else resolve_mirror(mirror)
    records, plan = plan_of_records(root, place)
    found = verify_plan(plan, level, Truth(records))
    return run(
        repair_plan(found),
        callback=callback,
        checksum=records.checksum,
        limits=Limits(timeout),
        # It is of no cohort, and so holds nothing that one no longer holds.
        record=Origin(),
    )


def _check_one_mirror(root: Path) -> None:
    records = read_records(root)
    if records is None:
        return
    newest = set(records.newest().column("run").tolist())
    used = [run for number, run in enumerate(records.runs) if number in newest]
    places = [mirror_of(run.mirror) for run in used if run.mirror]
    # AWS and Google hold the same objects.
    public = {"aws", "gcs", "auto"}
    named = {"aws" if own.name in public else own.root for own in places}
    if len(named) > 1:
        msg = (
            f"the copies in {root} came from {' and '.join(sorted(named))}; name the "
            "mirror that holds them all"
        )
        raise RequestError(msg, mirrors=sorted(named))
