"""The doors: a release, or a manifest, as a cohort."""

from __future__ import annotations

import os
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, Literal

from intake_idc.arrow import integers
from intake_idc.cohort.accounting import narrowed
from intake_idc.cohort.cohort import Cohort
from intake_idc.cohort.difference import compare
from intake_idc.errors import (
    EmptySelection,
    ManifestError,
    RequestError,
    SeriesWithdrawn,
    UnknownRelease,
    UnknownValue,
)
from intake_idc.formats import Problem, check_problems
from intake_idc.release import Release, open_release
from intake_idc.release.history import histories, locate, widest, with_others
from intake_idc.release.listed import ListedRows, packed_uuids

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import pyarrow as pa

    from intake_idc.cohort.difference import Difference
    from intake_idc.formats import Listing
    from intake_idc.formats.reading import Kind
    from intake_idc.release import History
    from intake_idc.release.history import Key
    from intake_idc.storage import Mirror

__all__ = ["diff", "history", "open_idc", "open_manifest", "open_series"]


def open_idc(
    idc_version: int | str = "current",
    *,
    tables: str | os.PathLike[str] | None = None,
    digest: Mapping[str, str] | str | None = None,
    mirror: str | os.PathLike[str] | Mirror | None = None,
) -> Cohort:
    """Open a release as a cohort to narrow with `Cohort.search`.

    Parameters
    ----------
    idc_version : int, "current" or "YYYY-MM-DD"
        The release, or a day on which it was current; resolved at once to a number.
    tables, digest
        Where the index tables are; see `open_release`.
    mirror : str, path or Mirror, optional
        Where the objects are read: "aws", "gcs", a folder, a URL. The embedded
        sample is its own mirror.

    Examples
    --------
    >>> ct = open_idc(25).search(collection_id="rider_pilot", Modality="CT")
    >>> len(ct)
    172
    """
    release = open_release(idc_version, tables, digest)
    return Cohort(release, mirror=_own_mirror(mirror, release))


def open_manifest(
    source: Any,
    *,
    kind: Kind | None = None,
    idc_version: int | str | None = None,
    tables: str | os.PathLike[str] | None = None,
    digest: Mapping[str, str] | str | None = None,
    mirror: str | os.PathLike[str] | Mirror | None = None,
    problems: Literal["raise", "report"] = "raise",
    objects: str | os.PathLike[str] | pa.Table | None = None,
    drs: bool | str = False,
) -> Cohort:
    """Open a manifest of any dialect as a cohort of exactly its series, in its order.

    A series is found by its uuid in whichever release holds it, and read from the
    bucket where it lies today, whatever bucket the manifest names. A series that the
    release no longer holds, or not yet, is a problem that says when it went or came.

    Parameters
    ----------
    source : path, URL, list, pyarrow.Table or data frame
        A file of any dialect, packed or not, or a URL that fsspec reads; a list of
        files, which are parts of one manifest, or a pattern of their names; an Arrow
        table or a data frame; a list of texts, each a URL, a command, a uuid or a
        DICOM UID. See `intake_idc.formats.reading.read`.
    kind : str, optional
        The dialect, or what each line of a list is, such as ``"PatientID"``. By
        default it is known by the content.
    idc_version : int or "current", optional
        The release that the cohort belongs to. By default the one that the manifest
        names, in its header or row by row, else the current one.
    tables, digest, mirror
        As in `open_idc`.
    problems : "raise" or "report"
        What to do with lines that give no series: refuse the manifest, or go on
        without them. Either way `Cohort.problems` has what was remarked.
    objects : path or pyarrow.Table, optional
        A table of objects, such as a file from `Cohort.save_instances`: it tells of
        which series the objects are that the manifest names without one.
    drs : bool or str
        Whether the DRS server of the CRDC is asked for the others, or the
        ``https://host`` of another server. It is asked only then.

    Raises
    ------
    ManifestError
        Lines cannot be used; every one is in ``problems``.
    StorageError
        The file cannot be read.
    """
    if problems not in ("raise", "report"):
        msg = f"problems is 'raise' or 'report'; got {problems!r}"
        raise RequestError(msg)
    from intake_idc.cohort.objects import Lookups
    from intake_idc.cohort.resolving import resolve
    from intake_idc.formats.reading import read

    listings = [narrowed(listing) for listing in read(source, kind)]
    said: set[int] = set()
    if idc_version is None:
        header, rowwise = _said(listings)
        said = header | rowwise
        idc_version = max(header or rowwise, default="current")
    try:
        release = open_release(idc_version, tables, digest)
    except UnknownRelease as error:
        if idc_version not in said:
            raise
        msg = f"the manifest says that it is of release {idc_version}: {error}"
        raise ManifestError(msg, idc_version=idc_version) from error
    lookups = Lookups(objects, drs)
    rows, found = resolve(listings, release, {release.idc_version, *said}, lookups)
    name = ", ".join(dict.fromkeys(each.part for each in listings))
    if problems == "raise":
        check_problems(name, found, taken=0 if rows is None else len(rows))
    if rows is None:
        rejected = "".join(f"\n  {problem}" for problem in found[:10])
        msg = f"the manifest {name} names no series{rejected}"
        raise EmptySelection(msg, name=name, problems=tuple(found))
    return Cohort(rows, mirror=_own_mirror(mirror, release), problems=tuple(found))


def _said(listings: Sequence[Listing]) -> tuple[set[int], set[int]]:
    """Give the releases that a manifest says it is of: in its header, and by row."""
    header = {version for each in listings for version in each.idc_versions}
    return header, {
        version
        for each in listings
        if "idc_version" in each.names.column_names
        for version in each.names.column("idc_version").unique().to_pylist()
        if version is not None
    }


def open_series(
    *,
    crdc_series_uuid: str | Sequence[str] | None = None,
    SeriesInstanceUID: str | Sequence[str] | None = None,  # noqa: N803
    idc_version: int | str | None = None,
    tables: str | os.PathLike[str] | None = None,
    digest: Mapping[str, str] | str | None = None,
    mirror: str | os.PathLike[str] | Mirror | None = None,
) -> Cohort:
    """Open series by name as a cohort of exactly these, in the order given.

    A ``crdc_series_uuid`` names bytes, in whichever release they are; a
    ``SeriesInstanceUID`` names what a release has under it.

    Parameters
    ----------
    crdc_series_uuid, SeriesInstanceUID : str or sequence of str
        The names, of one kind. A name that is there twice is taken once, and remarked
        in `Cohort.problems`.
    idc_version : int, "current" or "YYYY-MM-DD", optional
        The release. By default the current one; for uuids the newest that holds them
        all, if there is one.
    tables, digest, mirror
        As in `open_idc`.

    Raises
    ------
    SeriesWithdrawn
        The release no longer holds a series, or not yet. The message says when it
        went, and which release to name for its bytes.
    UnknownValue
        No release holds a series.
    EmptySelection
        No name was given.

    Examples
    --------
    >>> old = open_series(crdc_series_uuid="1a9054bb-f38c-4482-aa40-598b66e284b8")
    >>> old.idc_version, old.keys() == open_idc(25).search(
    ...     crdc_series_uuid="f55bed2f-b719-4e8c-bbbb-b6d19c6f56bf"
    ... ).keys()
    (24, True)
    """
    given: dict[Key, str | Sequence[str] | None] = {
        "crdc_series_uuid": crdc_series_uuid,
        "SeriesInstanceUID": SeriesInstanceUID,
    }
    named = {key: value for key, value in given.items() if value is not None}
    if len(named) != 1:
        msg = "name series either by crdc_series_uuid or by SeriesInstanceUID"
        raise EmptySelection(msg) if not named else RequestError(msg)
    key, value = next(iter(named.items()))
    names, problems = _names(key, value)
    anywhere = key == "crdc_series_uuid" and idc_version is None
    release = open_release(
        "current" if idc_version is None else idc_version, tables, digest
    )
    found = locate(release, key, names)
    foreign: list[int] = []
    if found.num_rows < len(names):
        lives = histories(widest(release), key, names)
        if anywhere:
            _all_known(key, names, lives, release)
            release = release.at(_newest_of_all(names, lives, release))
            found = locate(release, key, names)
        there = set(found.column("position").to_pylist())
        foreign = [i for i in range(len(names)) if i not in there]
        found = _completed(found, key, names, lives, release, problems, anywhere)
    rows = _listed(found, release, foreign, f"a list by {key}")
    return Cohort(rows, mirror=_own_mirror(mirror, release), problems=tuple(problems))


def _listed(
    found: pa.Table, release: Release, foreign: Sequence[int], origin: str
) -> ListedRows:
    """Give series that were located as rows; some are of other releases."""
    import pyarrow as pa

    uuids = found.column("crdc_series_uuid").combine_chunks()
    whole = uuids if isinstance(uuids, pa.Array) else uuids.chunk(0)
    packed = packed_uuids(whole, release.source)
    others = None
    if foreign:
        among = pa.compute.is_in(
            found.column("position"), value_set=integers(list(foreign))
        )
        others = found.filter(among).drop_columns(["position"])
    return ListedRows(release, packed, origin, others)


def _names(key: Key, value: object) -> tuple[list[str], list[Problem]]:
    """Give the names once each, and remark those that were there before."""
    if isinstance(value, str):
        given: list[object] = [value]
    elif isinstance(value, Iterable):
        given = list(value)
    else:
        msg = f"{key} is text, or several; got {value!r}, {type(value).__name__}"
        raise RequestError(msg, column=key)
    first: dict[str, int] = {}
    problems = []
    for number, item in enumerate(given, 1):
        if not isinstance(item, str):
            msg = f"{key} is text; got {item!r}, which is {type(item).__name__}"
            raise RequestError(msg, column=key)
        name = item.strip()
        name = name.lower() if key == "crdc_series_uuid" else name
        if name in first:
            reason = f"repeats item {first[name]}; taken once"
            problems.append(Problem(number, name[:200], reason, rejected=False))
        else:
            first[name] = number
    if not first:
        msg = f"{key}=[]: no series was named"
        raise EmptySelection(msg, column=key)
    return list(first), problems


def _all_known(
    key: Key, names: Sequence[str], lives: Mapping[str, History], release: Release
) -> None:
    unknown = [name for name in names if name not in lives]
    if unknown:
        more = f" (and {len(unknown) - 1:,} more)" if len(unknown) > 1 else ""
        msg = f"no release that {release.source} knows has {key} = {unknown[0]!r}{more}"
        raise UnknownValue(msg, column=key, values=unknown)


def _newest_of_all(
    names: Sequence[str], lives: Mapping[str, History], release: Release
) -> int:
    """Give the newest release that holds all of these bytes, else the newest."""
    for version in range(release.idc_version, 0, -1):
        held = (lives[name].at(version) for name in names)
        if all(
            life is not None and life.crdc_series_uuid == name
            for life, name in zip(held, names, strict=True)
        ):
            return version
    return release.idc_version


def _completed(
    found: pa.Table,
    key: Key,
    names: Sequence[str],
    lives: Mapping[str, History],
    release: Release,
    problems: list[Problem],
    anywhere: bool,
) -> pa.Table:
    """Add the bytes of other releases that were asked for by name, or say why not."""
    _all_known(key, names, lives, release)
    number = release.idc_version
    there = set(found.column("position").to_pylist())
    missing = [i for i in range(len(names)) if i not in there]
    gone = [
        i
        for i in missing
        if key == "SeriesInstanceUID" or lives[names[i]].at(number) is None
    ]
    if gone and not anywhere:
        _refuse(key, [names[i] for i in gone], lives, number)
    for i in missing:
        held = lives[names[i]].releases_of(names[i])
        reason = f"belongs to {held}, not {number}; its own bytes are taken"
        problems.append(Problem(i + 1, names[i], reason, rejected=False))
    return with_others(release, found, missing, [names[i] for i in missing])


def _refuse(
    key: Key, names: Sequence[str], lives: Mapping[str, History], idc_version: int
) -> None:
    life = lives[names[0]]
    more = f" (and {len(names) - 1:,} more)" if len(names) > 1 else ""
    lasts = [x.last_idc_version for x in life.lives]
    msg = (
        f"release {idc_version} does not hold the series with {key} = {names[0]!r}"
        f"{more}, which is of {life.releases}: {life.absence(idc_version)}; "
        f"its bytes: open_series({key}={names[0]!r}, "
        f"idc_version={life.nearest(idc_version)})"
    )
    raise SeriesWithdrawn(
        msg,
        SeriesInstanceUID=life.SeriesInstanceUID,
        idc_version=idc_version,
        last_idc_version=max((x for x in lasts if x < idc_version), default=None),
        names=list(names),
    )


def history(
    series: str,
    *,
    tables: str | os.PathLike[str] | None = None,
    digest: Mapping[str, str] | str | None = None,
) -> History:
    """Tell the life of a series: its uuids, by the releases that held them.

    Parameters
    ----------
    series : str
        A ``SeriesInstanceUID``, or any ``crdc_series_uuid`` that it ever had.
    tables, digest
        Where the index tables are; see `open_release`.

    Raises
    ------
    UnknownValue
        No release of the tables holds it.
    """
    return open_release("current", tables, digest).history(series)


def diff(
    old: int | str | Release | Cohort,
    new: int | str | Release | Cohort,
    *,
    tables: str | os.PathLike[str] | None = None,
    digest: Mapping[str, str] | str | None = None,
) -> Difference:
    """Compare two releases, or two cohorts, from the older to the newer.

    Parameters
    ----------
    old, new : int, "YYYY-MM-DD", Release or Cohort
        What is compared, in either order.
    tables, digest
        Where the tables of a release are that is named by its number or day; see
        `open_release`.

    Raises
    ------
    UnknownRelease
        The tables do not know a release.
    """
    sides = [
        side
        if isinstance(side, Cohort)
        else Cohort(
            side if isinstance(side, Release) else open_release(side, tables, digest)
        )
        for side in (old, new)
    ]
    first, second = sides
    return compare(first.rows, first.selection, second.rows, second.selection)


def _own_mirror(
    mirror: str | os.PathLike[str] | Mirror | None, release: Release
) -> Mirror | None:
    """Give the mirror that was named; the embedded sample is its own."""
    from intake_idc.storage import resolve_mirror

    named = "sample" if mirror is None and release.spec == "sample" else mirror
    return None if named is None else resolve_mirror(named, environment=False)
