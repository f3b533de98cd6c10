"""The objects, copied to a folder and held against it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, overload

from intake_idc.cohort.planning import Layout, planned
from intake_idc.cohort.verbs.base import Base

if TYPE_CHECKING:
    import os
    import threading

    from fsspec.callbacks import Callback

    from intake_idc.plan import Plan
    from intake_idc.plan.layout import FileNames
    from intake_idc.storage import Mirror
    from intake_idc.transfer import Checksum, Report, Verification

__all__ = ["Copying"]


class Copying(Base):
    """The verbs of a copy."""

    def plan(
        self,
        target: str | os.PathLike[str],
        *,
        dir_template: str | None = None,
        file_names: FileNames = "uuid",
        longest_path: int | None = None,
        mirror: str | os.PathLike[str] | Mirror | None = None,
    ) -> Plan:
        """Decide what a copy to a folder would do; lists the mirror, moves no byte.

        What would collide, cannot have its path, or cannot be listed is in the plan
        with its reason. ``file_names="slice"`` and ``"SOPInstanceUID"`` read headers.

        Parameters
        ----------
        target, dir_template, file_names, longest_path, mirror
            As in `materialize`.

        Raises
        ------
        PlanError
            The layout leads outside the target, or names no column.
        """
        layout = Layout(dir_template, file_names, longest_path)
        return planned(self, target, layout, mirror)

    @overload
    def materialize(
        self,
        target: str | os.PathLike[str],
        *,
        dry_run: Literal[False] = False,
        **options: Any,
    ) -> Report: ...

    @overload
    def materialize(
        self,
        target: str | os.PathLike[str],
        *,
        dry_run: Literal[True],
        **options: Any,
    ) -> Plan: ...

    # Its options are named here alone.
    def materialize(  # type: ignore[misc]
        self,
        target: str | os.PathLike[str],
        *,
        dir_template: str | None = None,
        file_names: FileNames = "uuid",
        longest_path: int | None = None,
        mirror: str | os.PathLike[str] | Mirror | None = None,
        checksum: Checksum | None = None,
        callback: Callback | None = None,
        cancel: threading.Event | None = None,
        timeout: float | None = None,
        mapping: str | os.PathLike[str] | None = None,
        notice: bool = True,
        dry_run: bool = False,
    ) -> Report | Plan:
        """Copy every object to a folder; what is there with the right size is kept.

        A notice of licences and citations is put beside them, ``NOTICE.txt``, when
        all of them are there. A second cohort in the same folder has one of its own;
        see `intake_idc.transfer.put_notice`.

        Parameters
        ----------
        target : path
            A folder; it is made if need be.
        dir_template : str, optional
            Folders below it; see `intake_idc.plan.DIR_TEMPLATE`. Empty is flat.
        file_names : "uuid", "SOPInstanceUID" or "slice"
            Names of the files: ``<crdc_instance_uuid>.dcm``, ``<SOPInstanceUID>.dcm``,
            or ``0001.dcm`` and so on in the order of the slices. The last two read
            headers while the copy is planned.
        longest_path : int, optional
            Length that a whole path may have, such as 259 for a folder that goes to
            Windows; by default what this system takes. A longer one is refused.
        mirror : str, path or Mirror, optional
            Where from.
        checksum : "md5", "crc32c", "sha256" or "blake2b", optional
            Computed of every byte while it is written. An MD5 that the release states
            is compared in any case.
        callback : fsspec.callbacks.Callback, optional
            Told of the bytes, for a progress bar.
        cancel : threading.Event, optional
            Set from another thread to give up what is not there yet.
        timeout : float, optional
            Seconds after which what is not there is given up.
        mapping : path, optional
            A file that gets one row for each object that is there: ``path`` below the
            target, uuids, ``SOPInstanceUID``, ``url``, ``size``, ``hash``. Its suffix
            is ``.csv``, ``.tsv``, ``.jsonl``, ``.parquet`` or ``.arrow``.
        notice : bool
            Whether the notice is written. Without the tables that hold the citations
            it says what the index does: licences and DOIs.
        dry_run : bool
            Give the plan, and move no byte; the same as `plan`.

        Raises
        ------
        TransferError
            Something planned is not there; its ``report`` says what and why.
        PlanError
            As in `plan`; or objects collide, or cannot have their paths. No byte has
            moved.
        """
        from intake_idc import transfer

        layout = Layout(dir_template, file_names, longest_path)
        if mapping is not None:
            transfer.check_mapping(Path(mapping))
        plan = planned(self, target, layout, mirror)
        if dry_run:
            return plan
        limits = transfer.Limits(timeout, cancel)
        report = transfer.run(plan, callback=callback, checksum=checksum, limits=limits)
        transfer.remember(report)
        if mapping is not None:
            transfer.write_mapping(report, Path(mapping))
        if not notice:
            return report
        digest = self._reading_manifest(["crdc_series_uuid"]).digest
        text = self.rows.citations(self.selection, whole=False).notice(digest)
        path = transfer.put_notice(plan.target, text, digest)
        return replace(report, notice=path)

    def verify(
        self,
        target: str | os.PathLike[str],
        *,
        dir_template: str | None = None,
        mirror: str | os.PathLike[str] | Mirror | None = None,
        checksum: bool = False,
    ) -> Verification:
        """Compare a folder with the mirror's listing and the index, object by object.

        Names and sizes are compared; no object is read. With ``checksum`` every file
        is read, and its MD5 compared with the one that the release states: the cohort
        must know its objects, see `with_instances`. Then nothing is listed either.

        Raises
        ------
        RequestError
            ``checksum`` is asked for, and the MD5 of an object is not known.
        """
        from intake_idc import transfer

        plan = planned(self, target, Layout(dir_template), mirror)
        return transfer.verify(plan, checksum=checksum)
