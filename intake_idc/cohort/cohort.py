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
from intake_idc.release import MANIFEST_COLUMNS, FixedRows, Release
from intake_idc.selection import Selection

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    import pandas as pd
    import pyarrow as pa
    from fsspec.callbacks import Callback

    from intake_idc.cohort.difference import Difference
    from intake_idc.formats import Problem
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
_COUNTED = (
    "instanceCount",
    "StudyInstanceUID",
    "PatientID",
    "collection_id",
    "series_size_MB",
)


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
            The cohort is the rows of a manifest.
        """
        if not isinstance(self.rows, Release):
            msg = "this cohort is the rows of a manifest, not a question to a release"
            raise RequestError(msg)
        return self.rows

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

    def at(self, idc_version: int) -> Cohort:
        """Ask another release the same."""
        return replace(self, rows=self.release.at(idc_version), problems=())

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

    # Asking the index.

    def __len__(self) -> int:
        return int(self.rows.aggregate("count(*)", self.selection)[0][0])

    def __bool__(self) -> bool:
        return len(self) > 0

    @cached_property
    def _counted(self) -> dict[str, int]:
        counted = ", ".join(_COUNTS.values())
        row = self.rows.aggregate(counted, self.selection, columns=_COUNTED)[0]
        return dict(zip(_COUNTS, map(int, row), strict=True))

    def counts(self) -> dict[str, int]:
        """Count series, instances, studies, patients, collections and bytes.

        Instances leave out the series whose count the index does not know
        (superseded ones); patients are counted within their collection, because 89
        identifiers occur in several.
        """
        return dict(self._counted)

    @property
    def size(self) -> int:
        """Bytes of all objects, as the index says."""
        return self._counted["bytes"]

    @property
    def table(self) -> pa.Table:
        """Every column of every series, as an Arrow table in the published order."""
        return self.rows.table(None, self.selection)

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

    def manifest(self, columns: Sequence[str] | None = None) -> Manifest:
        """Give the series as a manifest: rows, release, origin.

        Parameters
        ----------
        columns : sequence of str, optional
            Columns to carry; those that name, size and check a series are always
            among them.
        """
        return self.rows.manifest(self.selection, columns or MANIFEST_COLUMNS)

    def diff(self, idc_version: int) -> Difference:
        """Compare with the same question to another release.

        Raises
        ------
        UnknownRelease
            The tables do not know that release.
        """
        other = self.release.at(idc_version)
        sides = {}
        for release in (self.release, other):
            found = release.rows(
                ["SeriesInstanceUID", "crdc_series_uuid"], self.selection, strict=False
            )
            sides[release.idc_version] = dict(found)
        old, new = sorted([self.idc_version, idc_version])
        return compare(old, sides[old], new, sides[new])

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
            self._reading_manifest(),
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
        return lazy.header_rows(
            self._reading_manifest(), self._mirror(mirror), keywords
        )

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
        dry_run: Literal[True],
    ) -> Plan: ...

    def materialize(
        self,
        target: str | os.PathLike[str],
        *,
        dir_template: str | None = None,
        mirror: str | os.PathLike[str] | Mirror | None = None,
        callback: Callback | None = None,
        dry_run: bool = False,
    ) -> Report | Plan:
        """Copy every object to a folder; what is there with the right size is kept.

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
        return plan if dry_run else transfer.run(plan, place, callback)

    def verify(
        self,
        target: str | os.PathLike[str],
        *,
        dir_template: str | None = None,
        mirror: str | os.PathLike[str] | Mirror | None = None,
    ) -> Verification:
        """Compare a folder with the mirror's listing and the index, object by object.

        Names and sizes are compared; no object is read.
        """
        from intake_idc import transfer

        return transfer.verify(*self._planned(target, dir_template, mirror))

    def _planned(
        self,
        target: str | os.PathLike[str],
        dir_template: str | None,
        mirror: str | os.PathLike[str] | Mirror | None,
    ) -> tuple[Plan, dict[str, int]]:
        from intake_idc import plan as planning
        from intake_idc import storage, transfer

        template = planning.DIR_TEMPLATE if dir_template is None else dir_template
        named = planning.template_columns(template, self.rows.columns)
        manifest = self._reading_manifest([*named, "crdc_series_uuid"])
        folders = {
            row["crdc_series_uuid"]: planning.series_folder(template, row)
            for row in manifest.table.to_pylist()
        }
        root = writing.local_path(target)
        there = transfer.present(root, folders.values())
        listed = storage.instances(manifest.parts(), self._mirror(mirror))
        return planning.make(listed, folders, there, root), there

    # Writing.

    def to_manifest(
        self,
        path: str | os.PathLike[str],
        *,
        mirror: Literal["aws", "gcs"] = "aws",
    ) -> Path:
        """Write the series as an s5cmd manifest; the header names the release.

        Raises
        ------
        RequestError
            The mirror is neither "aws" nor "gcs".
        """
        target = writing.local_path(path)
        date = self.rows.date if isinstance(self.rows, Release) else None
        writing.write_manifest(target, self._reading_manifest(), mirror, date)
        return target

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

        A cohort that is the rows of a manifest gets the manifest written beside the
        catalog. ``intake.open_catalog(path)[name]`` opens it again.

        Raises
        ------
        RequestError
            A value holds template signs, which Intake would evaluate.
        """
        target = writing.local_path(path)
        arguments: dict[str, Any]
        if isinstance(self.rows, FixedRows):
            # A name of its own: "cohort.s5cmd" may be the user's.
            digest = self._reading_manifest().digest[:12]
            beside = self.to_manifest(target.with_name(f"{target.stem}-{digest}.s5cmd"))
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
        rejected = sum(problem.rejected for problem in self.problems)
        remarked = len(self.problems) - rejected
        lines: list[tuple[str, object]] = [
            ("lines left out", f"{rejected:,}"),
            ("lines remarked", f"{remarked:,}"),
        ]
        return [
            ("where", self._where),
            *counted,
            ("instances", f"{counts['instances']:,}"),
            ("size", display.bytes_text(counts["bytes"])),
            ("licences", licenses or "-"),
            ("source", self.rows.source),
            *(lines if self.problems else []),
        ]

    @property
    def _where(self) -> str:
        """The conditions in words, or where the rows came from."""
        if self.selection or isinstance(self.rows, Release):
            return str(self.selection)
        return f"every series of {self.rows.source}"

    def __str__(self) -> str:
        return display.pairs(f"Cohort of IDC release {self.idc_version}", self._items())

    def __repr__(self) -> str:
        return f"<Cohort of IDC release {self.idc_version}: {self._where}>"

    def _repr_html_(self) -> str:
        title = f"Cohort of IDC release {self.idc_version}"
        return display.pairs_html(title, self._items())

    # How.

    def _mirror(self, mirror: str | os.PathLike[str] | Mirror | None) -> Mirror:
        from intake_idc.storage import resolve_mirror

        return resolve_mirror(mirror if mirror is not None else self.mirror)

    def _reading_manifest(self, columns: Sequence[str] | None = None) -> Manifest:
        meant = self.everything or isinstance(self.rows, FixedRows)
        if not self.selection and not meant:
            msg = (
                f"no condition was given, and the whole of release {self.idc_version} "
                "was not asked for; narrow with search(...), or say all()"
            )
            raise EmptySelection(msg)
        manifest = self.manifest(columns)
        if not len(manifest):
            msg = f"no series of release {self.idc_version} has {self.selection}"
            raise EmptySelection(msg)
        return manifest
