"""The objects, copied to a folder and held against it."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, overload

from intake_idc.cohort.planning import (
    Layout,
    counted,
    origin_of,
    planned,
    truth_of,
    verified_path,
)
from intake_idc.cohort.verbs.base import Base
from intake_idc.errors import RequestError

if TYPE_CHECKING:
    import os
    import threading
    from collections.abc import Mapping

    from fsspec.callbacks import Callback

    from intake_idc.plan import Plan
    from intake_idc.plan.layout import FileNames
    from intake_idc.storage import AnyMirror, EngineName
    from intake_idc.transfer import (
        Checksum,
        Level,
        Origin,
        Report,
        ServerSide,
        Target,
        Verification,
    )
    from intake_idc.transfer.spreading import Client

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
        mirror: AnyMirror | None = None,
        target_options: Mapping[str, Any] | None = None,
    ) -> Plan:
        """Decide what a copy to a folder would do; lists the mirror, moves no byte.

        What would collide, cannot have its path, or cannot be listed is in the plan
        with its reason. ``file_names="slice"`` and ``"SOPInstanceUID"`` read headers.

        Parameters
        ----------
        target, dir_template, file_names, longest_path, mirror, target_options
            As in `materialize`.

        Raises
        ------
        PlanError
            The layout leads outside the target, or names no column.
        """
        layout = Layout(dir_template, file_names, longest_path)
        from intake_idc import transfer

        place = transfer.target_of(target, target_options)
        return planned(self, place, layout, mirror)

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
        mirror: AnyMirror | None = None,
        engine: EngineName | None = None,
        checksum: Checksum | None = None,
        callback: Callback | None = None,
        cancel: threading.Event | None = None,
        timeout: float | None = None,
        mapping: str | os.PathLike[str] | None = None,
        client: Client | None = None,
        target_options: Mapping[str, Any] | None = None,
        server_side: ServerSide = "auto",
        record: bool = True,
        delete_extra: bool = False,
        notice: bool = True,
        dry_run: bool = False,
    ) -> Report | Plan:
        """Copy every object to a folder; what is there with the right size is kept.

        A notice of licences and citations is put beside them, ``NOTICE.txt``, when
        all of them are there. A second cohort in the same folder has one of its own;
        see `intake_idc.transfer.put_notice`.

        Parameters
        ----------
        target : path or URL
            A folder; it is made if need be. Or a folder of an object store, by any
            URL that fsspec writes, such as ``s3://bucket/folder``.
        dir_template : str, optional
            Folders below it; see `intake_idc.plan.DIR_TEMPLATE`. Empty is flat.
        file_names : "uuid", "SOPInstanceUID" or "slice"
            Names of the files: ``<crdc_instance_uuid>.dcm``, ``<SOPInstanceUID>.dcm``,
            or ``0001.dcm`` and so on in the order of the slices. The last two read
            headers while the copy is planned.
        longest_path : int, optional
            Length that a whole path may have, such as 259 for a folder that goes to
            Windows; by default what this system takes. A longer one is refused.
        mirror : str, path, Mirror or list of them, optional
            Where from. ``"auto"`` is AWS or Google, whichever serves; of a list
            another serves where one fails.
        engine : "obstore", "fsspec" or "s5cmd", optional
            What carries the bytes; see `intake_idc.resolve_mirror`.
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
        client : distributed.Client, optional
            Spreads the copy over the workers of a cluster, which all have to see the
            target.
        target_options : mapping, optional
            How the store of a URL is reached, such as ``{"endpoint_url": ...}``;
            secrets are refused, credentials are found by the store's own tools.
        server_side : bool or "auto"
            Whether a store that holds the objects as well copies them by itself. By
            default it is asked, and what it will not copy comes through here.
        record : bool
            Whether what is done is written down in the folder, below ``.idc``, for
            `intake_idc.verify`, `repair` and ``delete_extra``.
        delete_extra : bool
            Remove, when all is there, what an earlier copy of this cohort put there
            and it no longer holds; see `intake_idc.transfer.obsolete`. A dry run says
            what that would be, as ``plan.delete``.
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
        from intake_idc import storage, transfer

        limits = transfer.Limits(timeout, cancel)
        layout = Layout(dir_template, file_names, longest_path)
        if mapping is not None:
            transfer.check_mapping(Path(mapping))
        place = transfer.target_of(target, target_options, server_side=server_side)
        if engine is not None:
            mirror = storage.resolve_mirror(self._mirror(mirror), engine=engine)
        plan = planned(self, place, layout, mirror, ended=limits.why)
        origin = origin_of(self, layout) if record else None
        earlier = _held(place, origin) if delete_extra else None
        if earlier is not None:
            plan = replace(plan, delete=transfer.obsolete(plan, earlier))
        if dry_run:
            return plan
        carry_out = transfer.run
        if client is not None:
            from intake_idc.transfer.spreading import spread

            carry_out = partial(spread, client)
        report = carry_out(
            plan,
            callback=callback,
            checksum=checksum,
            limits=limits,
            target=place,
            record=origin,
        )
        if earlier is not None:
            deleted = transfer.remove_obsolete(plan, earlier)
            report = replace(report, deleted=deleted)
        transfer.remember(report)
        if mapping is not None:
            transfer.write_mapping(report, Path(mapping))
        if not notice:
            return report
        digest = (origin or origin_of(self, layout)).manifest
        text = self.rows.citations(self.selection, whole=False).notice(digest)
        beside = place.place()
        if isinstance(beside, transfer.LocalPlace):
            path: Path | str = transfer.put_notice(beside.target, text, digest)
        else:
            path = beside.put_notice(text, digest)
        return replace(report, notice=path)

    def verify(
        self,
        target: str | os.PathLike[str],
        *,
        dir_template: str | None = None,
        file_names: FileNames = "uuid",
        mirror: AnyMirror | None = None,
        quick: bool = False,
        checksum: bool = False,
        subset: str | None = None,
    ) -> Verification:
        """Compare a folder with the mirror's listing and the index, object by object.

        Names and sizes are compared. A file is read where it is not as a copy left it,
        or where the mirror has another version; see `intake_idc.verify` for the
        folder's record alone, which needs no cohort.

        Parameters
        ----------
        target : path
            The folder.
        dir_template, file_names
            As the copy was made with; see `materialize`.
        mirror : str, path, Mirror or list of them, optional
            What is listed. Where the cohort knows its objects, see `with_instances`,
            nothing is.
        quick : bool
            List nothing and read nothing: count and bytes of each series against the
            index, names and sizes against the record.
        checksum : bool
            Read every file. Its MD5 is compared with that of the release and the
            entity tag of the store, else with what was computed when it was copied.
        subset : str, optional
            ``"n/t"``: read, as ``checksum`` does, the ``n``-th of ``t`` shares of the
            files; ``t`` runs read them all.

        Raises
        ------
        PlanError
            Objects of the cohort collide, or cannot have their paths.
        RequestError
            The arguments do not go together.
        """
        from intake_idc import transfer

        level = transfer.Level.of(quick=quick, checksum=checksum, subset=subset)
        layout = Layout(dir_template, file_names)
        if quick and self.objects is None:
            return counted(self, target, layout, mirror)
        return self._verified(target, layout, mirror, level)

    def repair(
        self,
        target: str | os.PathLike[str],
        *,
        dir_template: str | None = None,
        file_names: FileNames = "uuid",
        mirror: AnyMirror | None = None,
        quick: bool = False,
        checksum: bool = False,
        subset: str | None = None,
        callback: Callback | None = None,
        timeout: float | None = None,
    ) -> Report:
        """Fetch what `verify` finds to differ, or to be missing; touch nothing else.

        Parameters
        ----------
        target, dir_template, file_names, mirror, quick, checksum, subset
            As in `verify`; but the mirror is listed in any case.
        callback : fsspec.callbacks.Callback, optional
            Told of the bytes that are fetched.
        timeout : float, optional
            Seconds after which what is not there is given up.

        Raises
        ------
        TransferError
            Something planned is not there; its ``report`` says what and why.
        PlanError, RequestError
            As in `verify`.
        """
        from intake_idc import transfer

        level = transfer.Level.of(quick=quick, checksum=checksum, subset=subset)
        layout = Layout(dir_template, file_names)
        found = self._verified(target, layout, mirror, level)
        records = transfer.read_records(found.target)
        return transfer.run(
            transfer.repair_plan(found),
            callback=callback,
            checksum=records.checksum if records is not None else None,
            limits=transfer.Limits(timeout),
            record=origin_of(self, layout),
        )

    def _verified(
        self,
        target: str | os.PathLike[str],
        layout: Layout,
        mirror: AnyMirror | None,
        level: Level,
    ) -> Verification:
        from intake_idc import transfer

        root = verified_path(target)
        plan = planned(self, root, layout, mirror, look=False)
        return transfer.verify_plan(plan, level, truth_of(self, root))


def _held(place: Target, origin: Origin | None) -> Origin:
    """Refuse to remove what nothing is written down of.

    Raises
    ------
    RequestError
        There is no record, or could be none.
    """
    from intake_idc import transfer

    if origin is None or not isinstance(place.place(), transfer.LocalPlace):
        msg = (
            "delete_extra removes what the record of a folder says that a copy put "
            "there; it takes a folder of this machine, and record=True"
        )
        raise RequestError(msg)
    return origin
