"""The class `Cohort`."""

from __future__ import annotations

import os
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal, overload

from intake_idc import display
from intake_idc.cohort import writing
from intake_idc.cohort.difference import compare
from intake_idc.errors import EmptySelection, RequestError
from intake_idc.manifest import ONLY, with_readable_subsets
from intake_idc.release import MANIFEST_COLUMNS, TABLE_KEYS, FixedRows, Release
from intake_idc.selection import Selection, quote

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    import pandas as pd
    import pyarrow as pa
    from fsspec.callbacks import Callback

    from intake_idc.citations import Citations
    from intake_idc.cohort import algebra, pairs
    from intake_idc.cohort.difference import Difference
    from intake_idc.export import Clinical, Export, ObjectTable
    from intake_idc.formats import Problem
    from intake_idc.formats.lock import Lock
    from intake_idc.formats.writing import Form, Rows
    from intake_idc.lazy import InstanceBag
    from intake_idc.manifest import Manifest
    from intake_idc.plan import Plan
    from intake_idc.storage import EngineName, Mirror
    from intake_idc.transfer import Report, Verification

__all__ = ["Cohort"]

_COUNTS = {
    "series": "count(*)",
    "instances": "coalesce(sum(instanceCount), 0)::BIGINT",
    "studies": "count(DISTINCT StudyInstanceUID)",
    "patients": "count(DISTINCT (collection_id, PatientID))",
    "collections": "count(DISTINCT collection_id)",
    "bytes": "coalesce(round(sum(series_size_MB * 1e6)), 0)::BIGINT",
}
_COUNTED: tuple[str, ...] = (
    "instanceCount",
    "StudyInstanceUID",
    "PatientID",
    "collection_id",
    "series_size_MB",
)
_SUBSET_COUNTS = {
    "instances": "coalesce(sum(coalesce(len({only}), instanceCount)), 0)::BIGINT",
    "bytes": (
        "coalesce(round(sum(series_size_MB * 1e6 * "
        "coalesce(len({only}) / nullif(instanceCount, 0), 1))), 0)::BIGINT"
    ),
}
"""The same where only some instances of a series are meant; see `Part.meant_size`."""


@dataclass(frozen=True, repr=False)
class Cohort:
    """Series of one release that fulfil some conditions.

    Use `open_idc` or `open_manifest`, and narrow with `search` and `query`. A
    cohort never changes: each method gives a new one. It may be used from many
    threads.
    """

    rows: Release | FixedRows
    """What is selected from: a release, or the rows of a manifest."""
    selection: Selection = field(default_factory=Selection)
    """The conditions."""
    mirror: Mirror | None = None
    """Where the objects are read unless a call says otherwise; None is the
    environment's mirror, else AWS."""
    everything: bool = False
    """Whether every series is meant where there is no condition; see `all`."""
    problems: tuple[Problem, ...] = field(default=(), compare=False)
    """Lines of the manifest that were remarked or rejected."""
    objects: ObjectTable | None = None
    """The objects of the series, where they are known; see `with_instances`."""

    # The value.

    @property
    def idc_version(self) -> int:
        """The release."""
        return self.rows.idc_version

    @property
    def release(self) -> Release:
        """The release that is selected from.

        Raises
        ------
        RequestError
            The cohort is the rows of a manifest or a lock.
        """
        if isinstance(self.rows, Release):
            return self.rows
        msg = "this cohort is the rows of a manifest, not a question to a release"
        if self.rows.lock is not None:
            msg = (
                "this cohort is the rows of a lock, which nothing moves; check_lock "
                "says what another release would change"
            )
        raise RequestError(msg)

    @property
    def locked(self) -> Lock | None:
        """What the lock says that the cohort was opened from, if it was."""
        return None if isinstance(self.rows, Release) else self.rows.lock

    def __dask_tokenize__(self) -> tuple[object, ...]:
        place = self.rows, self.selection, self.mirror, self.everything
        return "intake_idc.Cohort", *place

    # Narrowing.

    def search(self, **columns: Any) -> Cohort:
        """Narrow by columns: a text or number is exact, a list is OR, columns are AND.

        ``re.compile(...)`` matches anywhere in the text; None is null.

        >>> from intake_idc import open_idc
        >>> open_idc(25).search(Modality=["CT", "PT"], BodyPartExamined=None)
        <Cohort of IDC release 25: BodyPartExamined = null and Modality = 'CT' or 'PT'>

        ``commercial_use=True`` keeps the series whose licence allows commercial use.
        A licence that is unknown, has terms of its own, or is stated in contradicting
        ways is left out; see `left_out`. False and None are no condition.

        Raises
        ------
        EmptySelection
            No column was given, or an empty list.
        RequestError
            A value is of a kind that no column can hold.
        """
        return replace(self, selection=self.selection.where(columns))

    def query(self, condition: str) -> Cohort:
        """Narrow by one SQL condition, such as ``"series_size_MB < 50"``.

        Raises
        ------
        BadCondition
            It is not one read-only condition.
        """
        return replace(self, selection=self.selection.query(condition))

    def all(self) -> Cohort:
        """Say that every series is meant, where there is no condition.

        Without it a cohort with no condition can be asked, but not read or copied:
        all of IDC is 100 TB, and mostly a filter that was forgotten.
        """
        return replace(self, everything=True)

    def at(self, idc_version: int | str) -> Cohort:
        """Ask another release the same: by its number, or by a day.

        >>> from intake_idc import open_idc
        >>> open_idc(25).search(Modality="CT").at("2024-09-01")
        <Cohort of IDC release 19: Modality = 'CT'>

        Raises
        ------
        UnknownRelease
            The tables do not know it, or the day is before the first.
        """
        rows = self.release.at(idc_version)
        # The objects that are known are those of this release.
        return replace(self, rows=rows, problems=(), objects=None)

    def reading_from(
        self,
        mirror: str | os.PathLike[str] | Mirror | None = None,
        *,
        endpoint_url: str | None = None,
        engine: EngineName | None = None,
        storage_options: Mapping[str, Any] | None = None,
    ) -> Cohort:
        """Give the same cohort, read from a mirror; see `resolve_mirror`.

        What is not named stays as it was.
        """
        from intake_idc.storage import resolve_mirror

        resolved = resolve_mirror(
            self.mirror if mirror is None else mirror,
            endpoint_url=endpoint_url,
            engine=engine,
            storage_options=storage_options,
            environment=False,
        )
        return replace(self, mirror=resolved)

    # Sets.

    def union(self, other: Cohort, *, by: algebra.By = "crdc_series_uuid") -> Cohort:
        """Give the series of both: these in their order, then what the other has more.

        ``one | other`` is the same. The result is a list of this cohort's release. Of
        another release it holds the bytes that the other cohort has; of these the
        index is known as far as a manifest goes.

        Parameters
        ----------
        other : Cohort
            Of this release or another, a question or a list.
        by : "crdc_series_uuid" or "SeriesInstanceUID"
            What makes two series the same: their bytes, or their name. By name, the
            bytes of this cohort are taken.

        Raises
        ------
        EmptySelection
            Either is everything without `all`.
        RequestError
            Each is read from a mirror of its own; see `reading_from`.

        Examples
        --------
        >>> from intake_idc import open_idc
        >>> sample = open_idc(2, tables="sample")
        >>> both = sample.search(Modality="SEG") | sample.search(Modality=["CT", "SEG"])
        >>> both.table["Modality"].to_pylist()
        ['SEG', 'CT']
        """
        from intake_idc.cohort import algebra

        return algebra.union(self, other, by)

    def intersection(
        self, other: Cohort, *, by: algebra.By = "crdc_series_uuid"
    ) -> Cohort:
        """Give the series that the other cohort has too, in this order.

        ``one & other`` is the same. Two questions to one release give a question, with
        the conditions of both; all else gives a list, which may be empty. ``by`` is
        that of `union`; mirror and bytes are those of this cohort.

        >>> from intake_idc import open_idc
        >>> idc = open_idc(25)
        >>> idc.search(Modality="CT") & idc.search(collection_id="nlst")
        <Cohort of IDC release 25: Modality = 'CT' and collection_id = 'nlst'>
        """
        from intake_idc.cohort import algebra

        return algebra.intersection(self, other, by)

    def difference(
        self, other: Cohort, *, by: algebra.By = "crdc_series_uuid"
    ) -> Cohort:
        """Give the series that the other cohort does not have: a list, in this order.

        ``one - other`` is the same; ``by`` is that of `union`. `diff` is another thing:
        it compares releases.

        Raises
        ------
        EmptySelection
            This is everything without `all`.

        Examples
        --------
        >>> from intake_idc import open_idc
        >>> new, old = (open_idc(v, tables="sample").all() for v in (2, 1))
        >>> (new - old).unique("Modality")  # the CT has other bytes
        ['CT', 'SEG', 'SM']
        >>> new.difference(old, by="SeriesInstanceUID").unique("Modality")
        ['SEG', 'SM']
        """
        from intake_idc.cohort import algebra

        return algebra.difference(self, other, by)

    def __or__(self, other: object) -> Cohort:
        return self.union(other) if isinstance(other, Cohort) else NotImplemented

    def __and__(self, other: object) -> Cohort:
        return self.intersection(other) if isinstance(other, Cohort) else NotImplemented

    def __sub__(self, other: object) -> Cohort:
        return self.difference(other) if isinstance(other, Cohort) else NotImplemented

    def sample(self, n: int, *, seed: int = 0) -> Cohort:
        """Give n series, drawn by the seed, as a list in the published order.

        The same call gives the same series on every machine. Which they are follows
        from the seed and their names alone: of a cohort that has grown, or of another
        release, most are the same, and a larger sample holds the smaller.

        Raises
        ------
        RequestError
            The cohort has fewer series.
        EmptySelection
            It has none, or is everything without `all`.

        Examples
        --------
        >>> from intake_idc import open_idc
        >>> ct = open_idc(25).search(collection_id="rider_pilot", Modality="CT")
        >>> few, more = ct.sample(5), ct.sample(50)
        >>> len(few), len(few - more)
        (5, 0)
        """
        from intake_idc.cohort import splitting

        return splitting.sample(self, n, seed)

    def split_patients(
        self,
        parts: Mapping[str, float],
        *,
        by: str | Sequence[str] | None = None,
        seed: int = 0,
    ) -> dict[str, Cohort]:
        """Divide the cohort, so that no patient is in two parts.

        A patient is a ``PatientID``, also where several collections have it. Series
        without one go with their study. Every series is in exactly one part; a part of
        few patients may be empty.

        Parameters
        ----------
        parts : dict
            Names of the parts, and their fractions of the patients, which add up to 1.
            Each part is right to less than one patient.
        by : str or list of str, optional
            Columns by which the parts are to be alike: patients who have the same set
            of values are divided by the same fractions, to less than two patients.
        seed : int
            Another seed gives another division; the same one the same, everywhere.

        Returns
        -------
        dict of str to Cohort
            Lists, each in the published order.

        Raises
        ------
        RequestError
            A fraction is not above 0, or they do not add up to 1.
        UnknownColumn
            There is no such column.
        EmptySelection
            The cohort has no series, or is everything without `all`.

        Examples
        --------
        >>> from intake_idc import open_idc
        >>> ct = open_idc(25).search(collection_id="nsclc_radiomics", Modality="CT")
        >>> parts = ct.split_patients({"train": 0.8, "test": 0.2})
        >>> {name: part.counts()["patients"] for name, part in parts.items()}
        {'train': 338, 'test': 84}
        """
        from intake_idc.cohort import splitting

        return splitting.split_patients(self, parts, by, seed)

    def require_all_on(self, on: str | Sequence[str], /, **columns: Any) -> Cohort:
        """Narrow by columns as `search`, and keep the groups that have every value.

        Of several columns, a group must have every combination of their values. A
        regular expression is fulfilled by any series that it matches. Series without a
        value in ``on`` belong to no group. The result is a list, which may be empty.

        Parameters
        ----------
        on : str or list of str
            What makes a group. A ``PatientID`` may occur in several collections:
            ``["collection_id", "PatientID"]`` is one patient of one collection.
        **columns
            Conditions; see `search`.

        Raises
        ------
        RequestError
            No column was named but those of ``on``.

        Examples
        --------
        >>> from intake_idc import open_idc
        >>> pilot = open_idc(25).search(collection_id="rider_pilot")
        >>> pairs = pilot.require_all_on("StudyInstanceUID", Modality=["CT", "SEG"])
        >>> pairs.counts()["studies"], pilot.counts()["studies"]
        (17, 154)
        """
        from intake_idc.cohort import pairs

        return pairs.require_all_on(self, on, columns)

    # Images and their annotations.

    def references(
        self,
        *,
        modality: str | Sequence[str] = ("SEG", "RTSTRUCT", "SR", "ANN"),
        headers: pairs.Headers = "auto",
        mirror: str | os.PathLike[str] | Mirror | None = None,
    ) -> pa.Table:
        """Tell which series the annotations of the cohort are of.

        Parameters
        ----------
        modality : str or sequence of str
            Modalities of annotations; other series of the cohort have no row.
        headers : "auto", True or False
            "auto" asks the index tables `seg_index`, `rtstruct_index` and `ann_index`,
            and reads the headers of what they do not tell: reports, and where a table
            is not at hand. True reads headers alone, of every object. False opens no
            object. What a table says of a superseded series is true of its newest
            bytes.
        mirror : str, path or Mirror, optional
            Where headers are read.

        Returns
        -------
        pyarrow.Table
            A row for each annotation and series that it is of: ``SeriesInstanceUID``,
            ``crdc_series_uuid`` and ``Modality`` of the annotation,
            ``referenced_SeriesInstanceUID``, and ``told_by``: the table, or "header".
            An annotation that nothing is told of has one row, with null in both.

        Raises
        ------
        TableNotFound
            ``headers`` is False, and a table is not at hand.
        DicomReadError, StorageError
            A header cannot be read.
        """
        from intake_idc.cohort import pairs

        return pairs.references(self, modality, headers, mirror)

    def annotations(
        self,
        modality: str | Sequence[str] = ("SEG", "RTSTRUCT", "SR", "ANN"),
        *,
        headers: pairs.Headers = "auto",
        mirror: str | os.PathLike[str] | Mirror | None = None,
    ) -> Cohort:
        """Give the annotations that are of series of this cohort, of the same release.

        What no table tells, which is every SR, is looked for among the series of the
        same patients, and its header is read. What is not told even then is listed in
        `problems`, so that none is lost unseen. The parameters are those of
        `references`.
        """
        from intake_idc.cohort import pairs

        return pairs.annotations_of(self, modality, headers, mirror)

    def sources(
        self,
        *,
        modality: str | Sequence[str] = ("SEG", "RTSTRUCT", "SR", "ANN"),
        headers: pairs.Headers = "auto",
        mirror: str | os.PathLike[str] | Mirror | None = None,
    ) -> Cohort:
        """Give the series that the annotations of this cohort are of.

        A report may be of a segmentation too, which then is among them. Annotations of
        which nothing is told, and sources that the release does not hold, are listed
        in `problems`. The parameters are those of `references`.
        """
        from intake_idc.cohort import pairs

        return pairs.sources_of(self, modality, headers, mirror)

    # Asking the index.

    def __len__(self) -> int:
        if isinstance(self.rows, FixedRows) and not self.selection:
            return len(self.rows)
        return int(self.rows.aggregate("count(*)", self.selection)[0][0])

    def __bool__(self) -> bool:
        return len(self) > 0

    @cached_property
    def _counted(self) -> dict[str, int]:
        counts, columns = _COUNTS, _COUNTED
        if ONLY in self.rows.columns:
            only = quote(ONLY)
            subsets = {n: sql.format(only=only) for n, sql in _SUBSET_COUNTS.items()}
            counts, columns = {**_COUNTS, **subsets}, (*_COUNTED, ONLY)
        counted = ", ".join(counts.values())
        row = self.rows.aggregate(counted, self.selection, columns=columns)[0]
        return dict(zip(counts, map(int, row), strict=True))

    def counts(self) -> dict[str, int]:
        """Count series, instances, studies, patients, collections and bytes.

        Instances leave out the series whose count the index does not know
        (superseded ones); patients are counted within their collection, because 89
        identifiers occur in several. Where a manifest names single instances, these
        are counted, and bytes are their share of the series.
        """
        return dict(self._counted)

    @property
    def size(self) -> int:
        """Bytes of all objects, as the index says."""
        return self._counted["bytes"]

    @property
    def table(self) -> pa.Table:
        """Every column of every series, as an Arrow table in the published order.

        Where a manifest names single instances, ``only`` lists their
        ``crdc_instance_uuid``; it is null where all of the series is meant.
        """
        return with_readable_subsets(self.rows.table(None, self.selection))

    def index_table(self, table: str, columns: Sequence[str] | None = None) -> pa.Table:
        """Give the rows of another index table that belong to these series.

        ``index_table("ct_index", ["SeriesInstanceUID", "SliceThickness"])``; see
        `Release.index_table`, and `find_column` for which table has what.

        Raises
        ------
        TableNotFound
            The table is not at hand and cannot be fetched; the message says which
            file to put where.
        UnknownColumn
            The table has no such column, or none by which it belongs to series.
        """
        keys = [key for key in TABLE_KEYS if key in self.rows.columns]
        among = self.rows.table(keys, self.selection)
        return self.rows.of_tables.index_table(table, columns, among=among)

    @property
    def df(self) -> pd.DataFrame:
        """Every column of every series, as a pandas data frame."""
        return self.table.to_pandas()

    @property
    def columns(self) -> list[str]:
        """Names of the columns."""
        return list(self.rows.columns)

    def keys(self) -> list[str]:
        """Give the SeriesInstanceUID of every series, in the published order."""
        found = self.rows.rows(["SeriesInstanceUID"], self.selection)
        return [row[0] for row in found]

    def unique(self, column: str) -> list[Any]:
        """Give the values that a column takes, sorted, null left out.

        Raises
        ------
        UnknownColumn
            There is no such column.
        """
        found = self.rows.rows([column], self.selection, distinct=True)
        return [row[0] for row in found if row[0] is not None]

    def nunique(self) -> dict[str, int]:
        """Count the values that each column takes, null left out."""
        columns = self.columns
        counted = ", ".join(f'count(DISTINCT "{column}")' for column in columns)
        row = self.rows.aggregate(counted, self.selection, columns=columns)[0]
        return dict(zip(columns, map(int, row), strict=True))

    def licenses(self) -> dict[str | None, int]:
        """Count the series under each ``license_short_name``."""
        found = self.rows.aggregate(
            "count(*)", self.selection, group=["license_short_name"]
        )
        return {name: int(count) for name, count in found}

    @cached_property
    def left_out(self) -> dict[str, int]:
        """Series by licence that ``commercial_use`` leaves out; else empty.

        A licence that allows commercial use, but that the tables state in ways that
        contradict each other, is listed as "... (conflicting)".
        """
        if not self.selection.commercial_use:
            return {}
        wider = replace(
            self, selection=replace(self.selection, commercial_use=False)
        ).licenses()
        kept = self.licenses()
        gone = {name: count - kept.get(name, 0) for name, count in wider.items()}
        return {
            f"{name} (conflicting)" if name in kept else name or "unknown": count
            for name, count in gone.items()
            if count
        }

    def citations(self) -> Citations:
        """Give whom to cite for these series, and under which licences they stand.

        Read from the index tables, offline. Series of which the tables do not say
        whom to cite are listed as uncited.

        Raises
        ------
        TableNotFound
            There is no `collections_index` among the tables; it came with
            idc-index-data 23.
        """
        return self.rows.citations(self.selection)

    def manifest(self, columns: Sequence[str] | None = None) -> Manifest:
        """Give the series as a manifest: rows, release, origin.

        Parameters
        ----------
        columns : sequence of str, optional
            Columns to carry; those that name, size and check a series are always
            among them.
        """
        return self.rows.manifest(self.selection, columns or MANIFEST_COLUMNS)

    def diff(self, other: int | str | Release | Cohort) -> Difference:
        """Compare with the same question to another release, or with a cohort.

        Parameters
        ----------
        other : int, "YYYY-MM-DD", Release or Cohort
            Another release of the same tables by its number or day; a release that
            was opened from other tables, such as its own published package; or a
            cohort with a question of its own.

        Returns
        -------
        Difference
            From the older release to the newer.

        Raises
        ------
        UnknownRelease
            The tables do not know that release.
        """
        if isinstance(other, Cohort):
            return compare(self.rows, self.selection, other.rows, other.selection)
        rows = other if isinstance(other, Release) else self.release.at(other)
        return compare(self.rows, self.selection, rows, self.selection)

    # Reading.

    def to_dask(
        self,
        *,
        headers_only: bool = False,
        mirror: str | os.PathLike[str] | Mirror | None = None,
        partition_bytes: int | str | None = None,
        partition_instances: int | None = None,
    ) -> InstanceBag:
        """Give a Dask bag of `pydicom.Dataset`; nothing is opened before compute.

        Order: the series as in `keys`, the objects of a series by their key. The
        default scheduler is threads. See `intake_idc.lazy.datasets`.

        Raises
        ------
        EmptySelection
            Nothing is selected, or everything without `all`.
        """
        from intake_idc import lazy

        return lazy.datasets(
            self._located(),
            self._mirror(mirror),
            headers_only=headers_only,
            partition_bytes=partition_bytes,
            partition_instances=partition_instances,
        )

    def header_rows(
        self,
        keywords: Sequence[str],
        *,
        mirror: str | os.PathLike[str] | Mirror | None = None,
    ) -> InstanceBag:
        """Give a Dask bag with a dict for each object: uuids, url, header values.

        Parameters
        ----------
        keywords : sequence of str
            DICOM keywords, such as ``["InstanceNumber", "PixelSpacing"]``.
        """
        from intake_idc import lazy

        if isinstance(keywords, str):
            keywords = [keywords]
        return lazy.header_rows(self._located(), self._mirror(mirror), keywords)

    def urls(self, mirror: str | os.PathLike[str] | Mirror | None = None) -> list[str]:
        """Give the URL of every series' folder, in the order of `keys`."""
        place = self._mirror(mirror)
        return [place.series_url(part) for part in self._reading_manifest().parts()]

    # Copying.

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
        return self._planned(target, dir_template, mirror)[0]

    @overload
    def materialize(
        self,
        target: str | os.PathLike[str],
        *,
        dir_template: str | None = None,
        mirror: str | os.PathLike[str] | Mirror | None = None,
        callback: Callback | None = None,
        notice: bool = True,
        dry_run: Literal[False] = False,
    ) -> Report: ...

    @overload
    def materialize(
        self,
        target: str | os.PathLike[str],
        *,
        dir_template: str | None = None,
        mirror: str | os.PathLike[str] | Mirror | None = None,
        callback: Callback | None = None,
        notice: bool = True,
        dry_run: Literal[True],
    ) -> Plan: ...

    def materialize(
        self,
        target: str | os.PathLike[str],
        *,
        dir_template: str | None = None,
        mirror: str | os.PathLike[str] | Mirror | None = None,
        callback: Callback | None = None,
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
        callback : fsspec.callbacks.Callback, optional
            Told of the bytes, for a progress bar.
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
        plan = self._planned(target, dir_template, place)[0]
        if dry_run:
            return plan
        report = transfer.run(plan, place, callback)
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

        plan, there = self._planned(target, dir_template, mirror)
        return transfer.verify(plan, there, checksum=checksum)

    def _planned(
        self,
        target: str | os.PathLike[str],
        dir_template: str | None,
        mirror: str | os.PathLike[str] | Mirror | None,
    ) -> tuple[Plan, dict[str, int]]:
        from intake_idc import plan as planning
        from intake_idc import storage, transfer

        if dir_template is None and self.locked is not None:
            dir_template = self.locked.dir_template
        template = planning.DIR_TEMPLATE if dir_template is None else dir_template
        named = planning.template_columns(template, self.rows.columns)
        manifest = self._located([*named, "crdc_series_uuid"])
        folders = {
            row["crdc_series_uuid"]: planning.series_folder(template, row)
            for row in manifest.table.select(
                dict.fromkeys([*named, "crdc_series_uuid"])
            ).to_pylist()
        }
        root = writing.local_path(target)
        there = transfer.present(root, folders.values())
        listed = storage.instances(manifest.parts(), self._mirror(mirror))
        return planning.make(listed, folders, there, root), there

    # The Parquet export.

    def export(
        self,
        table: str = "dicom_all",
        *,
        mirror: str | os.PathLike[str] | Mirror | None = None,
        endpoint_url: str | None = None,
        storage_options: Mapping[str, Any] | None = None,
    ) -> Export:
        """Open a table of the Parquet export of this release; see `open_export`.

        It is the whole table: `Export.instances` gives the rows of a cohort.
        """
        from intake_idc.export import open_export

        return open_export(
            self.idc_version,
            table,
            mirror=mirror,
            endpoint_url=endpoint_url,
            storage_options=storage_options,
        )

    # The objects by name.

    def instances_table(
        self,
        export: Export | None = None,
        *,
        mirror: str | os.PathLike[str] | Mirror | None = None,
    ) -> pa.Table:
        """Give a row for each object: names, size in bytes, MD5, bucket and key.

        The rows are those of ``dicom_all`` in the Parquet export of the release, held
        against the index; see `intake_idc.export.tables.Export.instances`.

        Parameters
        ----------
        export : Export, optional
            An export of ``dicom_all`` of the same release, from `open_export`.
        mirror : str, path or Mirror, optional
            Where the export lies, if not in the public bucket.

        Raises
        ------
        MissingError
            The export has no row for a series.
        IntegrityError
            Count, bytes or hash of a series are not what they should be.
        """
        if export is None:
            from intake_idc.export import open_export

            export = open_export(self.idc_version, "dicom_all", mirror=mirror)
        return export.instances(self._reading_manifest())

    def save_instances(
        self,
        path: str | os.PathLike[str],
        export: Export | None = None,
        *,
        mirror: str | os.PathLike[str] | Mirror | None = None,
    ) -> Path:
        """Write `instances_table` to a file, ``.parquet`` or ``.csv``, once for all."""
        target = writing.local_path(path)
        writing.write_table(target, self.instances_table(export, mirror=mirror))
        return target

    def with_instances(self, source: str | os.PathLike[str] | pa.Table) -> Cohort:
        """Give the same cohort, knowing its objects: nothing is listed any more.

        Reading and copying then ask the mirror for the objects alone, and
        ``verify(checksum=True)`` has the MD5s to compare with.

        Parameters
        ----------
        source : path or table
            A Parquet file from `save_instances`, or a table with
            ``crdc_instance_uuid``, ``instance_size``, and ``crdc_series_uuid`` or
            ``SeriesInstanceUID``, such as the index table `sm_instance_index`. Without
            ``instance_hash`` no MD5 is known. Other series' rows are left out.

        Raises
        ------
        MissingError
            A series of the cohort has no row.
        IntegrityError
            A series has another count, other bytes or another hash than it should.
        RequestError
            The table lacks a column.
        """
        from intake_idc.export import ObjectTable

        manifest = self._reading_manifest()
        found = ObjectTable(writing.read_table(source), manifest)
        found.check(manifest)
        return replace(self, objects=found)

    def clinical(
        self,
        table: str,
        *,
        decode: bool = False,
        mirror: str | os.PathLike[str] | Mirror | None = None,
    ) -> Clinical:
        """Give the rows of a clinical table for the patients of the cohort.

        Patients are the same where identifier and collection are: an identifier may
        occur in several collections. A patient without clinical data has no row, and
        one with several keeps them all. See `open_clinical` for the arguments.

        Raises
        ------
        UnknownRelease
            The release is older than the clinical tables.
        UnknownValue
            There is no such table.
        RequestError
            No patient of the cohort is in a collection that the table is of.
        """
        from intake_idc.export import clinical

        return clinical.of_patients(
            self.rows, self.selection, table, decode=decode, mirror=mirror
        )

    # Writing.

    def to_manifest(
        self,
        path: str | os.PathLike[str],
        kind: str | None = None,
        *,
        mirror: Literal["aws", "gcs"] = "aws",
        level: Literal["series", "instance"] = "series",
        columns: Sequence[str] | None = None,
        scheme: Literal["s3", "gs", "https"] | None = None,
        preamble: bool | None = None,
        spreadsheet_safe: bool = False,
    ) -> Path:
        """Write the series, or their instances, as a manifest that names the release.

        `to_table` is for looking at the series, every column of the index with its
        type; this is for handing them on, to another tool or to `open_manifest`.

        Parameters
        ----------
        path : str or path
            The kind follows from the name: ``.s5cmd``, ``.txt`` (URLs), ``.csv``,
            ``.tsv``, ``.ndjson`` or ``.jsonl``, ``.json``, ``.parquet``, ``.sh`` (a
            script), ``.yml`` (a catalog, see `to_catalog`). Texts that other tools do
            not run may end in ``.gz``.
        kind : str, optional
            "s5cmd", "urls", "csv", "tsv", "ndjson", "json", "parquet", "drs",
            "api-v2", "aws", "gcloud" or "yaml", whatever the name ends in.
        mirror : "aws" or "gcs"
            Whose buckets are named.
        level : "series" or "instance"
            What a line or row is. Instances are listed in the mirror that the cohort is
            read from, unless the cohort knows them.
        columns : sequence of str, optional
            Columns of a table besides the usual ones; see
            `intake_idc.formats.writing.rows`.
        scheme : "s3", "gs" or "https", optional
            Scheme of plain URLs; by default that of the mirror.
        preamble : bool, optional
            Whether lines above the first say the release and the number of rows. By
            default s5cmd manifests and URLs have them, CSV and TSV do not.
        spreadsheet_safe : bool
            Put ``'`` before cells of CSV and TSV that a spreadsheet would run.

        Raises
        ------
        EmptySelection
            Nothing is selected, or everything without `all`.
        RequestError
            The kind is not known, options do not fit it, or the level is that of series
            and only some instances of one are meant.
        UnknownColumn
            A column is not there.
        StorageError
            The mirror cannot be listed, or the file cannot be written; what was there
            before is as it was.
        """
        from intake_idc.formats.writing import form_of

        target = writing.local_path(path)
        form = form_of(
            target.name,
            kind,
            mirror=mirror,
            level=level,
            columns=tuple(columns or ()),
            scheme=scheme,
            preamble=preamble,
            spreadsheet_safe=spreadsheet_safe,
        )
        if form.kind == "yaml":
            return self.to_catalog(target)
        writing.write_manifest(target, self._written(form), form)
        return target

    def _written(self, form: Form) -> Rows:
        """Give the rows that a manifest is written of."""
        from intake_idc.cohort import locking
        from intake_idc.formats.writing import COMPUTED, Rows

        wanted = [column for column in form.columns if column not in COMPUTED]
        manifest = self._located([*MANIFEST_COLUMNS, *wanted])
        objects = None
        if form.level == "instance":
            objects = writing.listed_objects(
                manifest, self._mirror(None), self.objects, sized=form.sized
            )
        return Rows(
            manifest,
            objects,
            writing.dated(self.rows),
            locking.where(self),
            writing.older(self.rows),
        )

    def lock(
        self,
        path: str | os.PathLike[str],
        *,
        dir_template: str | None = None,
        mirror: str | os.PathLike[str] | Mirror | None = None,
    ) -> Path:
        """Write a lock, by which the same bytes are found again without any index.

        It holds the question, the release and its tables, every series, counts,
        licences, DOIs, and a digest over all. More than 1,000 series go into a Parquet
        file beside it. The same cohort gives the same bytes. Open it with `open_lock`.

        Parameters
        ----------
        path : str or path
            Such as ``"cohort.lock.json"``. A lock that is there is replaced, and
            holds until the new one is whole.
        dir_template : str, optional
            Folders that `restore` makes; see `intake_idc.plan.DIR_TEMPLATE`.
        mirror : str, path or Mirror, optional
            Where `restore` reads; by default where the cohort was told to read.

        Raises
        ------
        EmptySelection
            Nothing is selected, or everything without `all`.
        PlanError
            The template leads outside the target, or names no column.
        RequestError
            Something cannot be written, such as a column of floating-point numbers
            that the template names, or a file beside a lock with ":" in its name.
        StorageError
            The folder cannot be written to, or the disk is full; the old lock holds.
        """
        target = writing.local_path(path)
        self._lock(target, dir_template, mirror)
        return target

    def _lock(
        self,
        target: Path,
        dir_template: str | None = None,
        mirror: str | os.PathLike[str] | Mirror | None = None,
    ) -> str:
        from intake_idc import plan as planning
        from intake_idc.cohort import locking
        from intake_idc.storage import resolve_mirror

        place = self.mirror
        if mirror is not None:
            place = resolve_mirror(mirror, environment=False)
        if dir_template is None and self.locked is not None:
            dir_template = self.locked.dir_template
        named = planning.template_columns(dir_template or "", self.rows.columns)
        return locking.write_lock(
            self,
            self._reading_manifest([*MANIFEST_COLUMNS, *named]),
            target,
            dir_template=dir_template,
            mirror=place,
        )

    def to_table(self, path: str | os.PathLike[str]) -> Path:
        """Write every column of every series, as ``.csv`` or ``.parquet``.

        Raises
        ------
        RequestError
            The name ends in neither.
        """
        target = writing.local_path(path)
        writing.write_table(target, self.table)
        return target

    def to_catalog(self, path: str | os.PathLike[str], name: str = "cohort") -> Path:
        """Write the cohort as an Intake catalog of one entry, pinned to its release.

        A cohort that is the rows of a manifest or a lock gets that written beside the
        catalog. ``intake.open_catalog(path)[name]`` opens it again.

        Raises
        ------
        RequestError
            A value holds template signs, which Intake would evaluate.
        """
        target = writing.local_path(path)
        arguments: dict[str, Any]
        if self.locked is not None:
            digest = self._reading_manifest().digest[:12]
            beside = target.with_name(f"{target.stem}-{digest}.lock.json")
            arguments = {
                "urlpath": f"{{{{ CATALOG_DIR }}}}/{beside.name}",
                "digest": self._lock(beside),
                "idc_version": self.idc_version,
            }
            # Not the conditions: they are in the lock, whatever signs they hold.
            series = display.count_text(len(self), "series")
            description = f"{series} of IDC release {self.idc_version}, locked"
            writing.write_catalog(target, name, "idc_lock", arguments, description)
            return target
        if isinstance(self.rows, FixedRows):
            # A name of its own: "cohort.s5cmd" may be the user's.
            digest = self._reading_manifest().digest[:12]
            beside = self.to_manifest(
                target.with_name(f"{target.stem}-{digest}.s5cmd"),
                level="instance" if self._reading_manifest().has_subsets else "series",
            )
            driver = "idc_manifest"
            arguments = {"urlpath": f"{{{{ CATALOG_DIR }}}}/{beside.name}"}
        else:
            driver = "idc_cohort"
            arguments = self.selection.to_arguments()
            if self.everything:
                arguments["everything"] = True
            writing.refuse_templates(arguments)
        arguments["idc_version"] = self.idc_version
        if self.rows.spec is not None:
            arguments["tables"] = self.rows.spec
        if self.rows.digest is not None:
            arguments["digest"] = self.rows.digest
        # The embedded sample is its own mirror, which need not be said.
        if self.mirror is not None and self.mirror.name != self.rows.spec:
            arguments |= self.mirror.to_arguments()
        description = f"{self._where}, IDC release {self.idc_version}"
        writing.refuse_templates(description)
        writing.write_catalog(target, name, driver, arguments, description)
        return target

    # Showing.

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

    @property
    def _where(self) -> str:
        """The conditions in words, or where the rows came from."""
        if self.locked is not None:
            from intake_idc.cohort import locking

            return locking.where(self)
        if self.selection or isinstance(self.rows, Release):
            return str(self.selection)
        return f"every series of {self.rows.source}"

    def __str__(self) -> str:
        return display.pairs(self._title, self._items())

    def __repr__(self) -> str:
        return f"<{self._title}: {self._where}>"

    def _repr_html_(self) -> str:
        return display.pairs_html(self._title, self._items())

    # How.

    def _mirror(self, mirror: str | os.PathLike[str] | Mirror | None) -> Mirror:
        from intake_idc.storage import resolve_mirror

        return resolve_mirror(mirror if mirror is not None else self.mirror)

    def _located(self, columns: Sequence[str] | None = None) -> Manifest:
        """Give the manifest to read by, with the objects where they are known."""
        manifest = self._reading_manifest(columns)
        return manifest if self.objects is None else self.objects.attach(manifest)

    def _check_meant(self) -> None:
        """Refuse everything that nobody asked for; see `all`."""
        meant = self.everything or isinstance(self.rows, FixedRows)
        if not self.selection and not meant:
            msg = (
                f"no condition was given, and the whole of release {self.idc_version} "
                "was not asked for; narrow with search(...), or say all()"
            )
            raise EmptySelection(msg)

    def _reading_manifest(self, columns: Sequence[str] | None = None) -> Manifest:
        self._check_meant()
        manifest = self.manifest(columns)
        if not len(manifest):
            msg = f"no series of release {self.idc_version} has {self.selection}"
            if isinstance(self.rows, FixedRows) and not self.selection:
                msg = f"there is no series in the list: {self.rows.source}"
            raise EmptySelection(msg)
        return manifest
