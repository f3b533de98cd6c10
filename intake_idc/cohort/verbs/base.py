"""What every verb stands on: the fields of a cohort, and how it is narrowed."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, TypeVar

from intake_idc.errors import EmptySelection, RequestError
from intake_idc.release import MANIFEST_COLUMNS, FixedRows, Release
from intake_idc.selection import Selection

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from typing_extensions import Self

    from intake_idc.export import ObjectTable
    from intake_idc.formats import Problem
    from intake_idc.formats.lock import Lock
    from intake_idc.manifest import Manifest
    from intake_idc.storage import AnyMirror, EngineName, Mirror

__all__ = ["AnyCohort", "Base"]

AnyCohort = TypeVar("AnyCohort", bound="Base")
"""`Cohort`, as functions name it that take one and give one."""


@dataclass(frozen=True, repr=False)
class Base:
    """The fields of `Cohort`, and what all of its verbs need."""

    rows: Release | FixedRows
    """A release, or the rows of a manifest, that are selected from."""
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
        place = self.rows, self.selection, self.mirror, self.everything, self.objects
        return "intake_idc.Cohort", *place

    def manifest(self, columns: Sequence[str] | None = None) -> Manifest:
        """Give the series as a manifest: rows, release, origin.

        Parameters
        ----------
        columns : sequence of str, optional
            Columns to carry; those that name, size and check a series are always
            among them.
        """
        return self.rows.manifest(self.selection, columns or MANIFEST_COLUMNS)

    # Narrowing.

    def search(self, **columns: Any) -> Self:
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

    def query(self, condition: str) -> Self:
        """Narrow by one SQL condition, such as ``"series_size_MB < 50"``.

        Raises
        ------
        BadCondition
            It is not one read-only condition.
        """
        return replace(self, selection=self.selection.query(condition))

    def all(self) -> Self:
        """Say that every series is meant, where there is no condition.

        Without it a cohort with no condition can be asked, but not read or copied:
        all of IDC is 100 TB, and mostly a filter that was forgotten.
        """
        return replace(self, everything=True)

    def at(self, idc_version: int | str) -> Self:
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
        mirror: AnyMirror | None = None,
        *,
        endpoint_url: str | None = None,
        engine: EngineName | None = None,
        storage_options: Mapping[str, Any] | None = None,
    ) -> Self:
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

    # How.

    @property
    def _where(self) -> str:
        """The conditions in words, or where the rows came from."""
        if self.locked is not None:
            from intake_idc.cohort import locking

            return locking.where(self)
        if self.selection or isinstance(self.rows, Release):
            return str(self.selection)
        return f"every series of {self.rows.source}"

    def _mirror(self, mirror: AnyMirror | None) -> Mirror:
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
