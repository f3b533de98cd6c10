"""The objects, copied to a folder and held against it."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any, Literal, overload

from intake_idc.cohort import writing
from intake_idc.cohort.verbs.base import Base

if TYPE_CHECKING:
    import os
    import threading

    from fsspec.callbacks import Callback

    from intake_idc.plan import Plan
    from intake_idc.storage import Mirror
    from intake_idc.transfer import Checksum, Report, Verification

__all__ = ["COUNTED_BY", "Copying"]

COUNTED_BY = ("collection_id", "Modality", "license_short_name")
"""Columns that a plan counts by, besides those of its layout."""


class Copying(Base):
    """The verbs of a copy."""

    def plan(
        self,
        target: str | os.PathLike[str],
        *,
        dir_template: str | None = None,
        mirror: str | os.PathLike[str] | Mirror | None = None,
    ) -> Plan:
        """Decide what a copy to a folder would do; lists the mirror, moves no byte.

        Raises
        ------
        PlanError
            Paths would collide or lead outside the target.
        IntegrityError, StorageError
            The mirror's listing and the index differ, or it cannot be listed.
        """
        return self._planned(target, dir_template, mirror)

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
        mirror: str | os.PathLike[str] | Mirror | None = None,
        checksum: Checksum | None = None,
        callback: Callback | None = None,
        cancel: threading.Event | None = None,
        timeout: float | None = None,
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
            Folders below it; see `intake_idc.plan.DIR_TEMPLATE`.
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
        notice : bool
            Whether the notice is written. Without the tables that hold the citations
            it says what the index does: licences and DOIs.
        dry_run : bool
            Give the plan, and move no byte; the same as `plan`.

        Raises
        ------
        TransferError
            Something planned is not there; its ``report`` says what and why.
        PlanError, IntegrityError, StorageError
            As in `plan`, before any byte has moved.
        """
        from intake_idc import transfer

        place = self._mirror(mirror)
        plan = self._planned(target, dir_template, place)
        if dry_run:
            return plan
        limits = transfer.Limits(timeout, cancel)
        report = transfer.run(plan, callback=callback, checksum=checksum, limits=limits)
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

        plan = self._planned(target, dir_template, mirror)
        return transfer.verify(plan, checksum=checksum)

    def _planned(
        self,
        target: str | os.PathLike[str],
        dir_template: str | None,
        mirror: str | os.PathLike[str] | Mirror | None,
    ) -> Plan:
        from intake_idc import plan as planning
        from intake_idc import storage, transfer
        from intake_idc.arrow import integers, texts

        if dir_template is None and self.locked is not None:
            dir_template = self.locked.dir_template
        template = planning.DIR_TEMPLATE if dir_template is None else dir_template
        layout = planning.Template(template, self.rows.columns)
        named = layout.columns
        told = [name for name in COUNTED_BY if name in self.rows.columns]
        wanted = list(dict.fromkeys([*named, *told]))
        manifest = self._located([*wanted, "crdc_series_uuid"])
        folders = layout.folders(manifest.table)
        parts = list(manifest.parts())
        series = manifest.table.select(
            list(dict.fromkeys(["crdc_series_uuid", "aws_bucket", *wanted]))
        )
        own = {
            "folder": texts(folders),
            "instanceCount": integers([part.instances for part in parts]),
            "size": integers([part.meant_size or None for part in parts]),
        }
        for name, column in own.items():
            if name in series.column_names:
                series = series.drop_columns(name)
            series = series.append_column(name, column)
        root = writing.local_path(target)
        place = self._mirror(mirror)
        return planning.make(
            series,
            storage.list_all(parts, place),
            transfer.LocalPlace(root).present,
            root,
            place,
        )
