"""The doors: a release, or a manifest, as a cohort."""

from __future__ import annotations

import os
import zlib
from collections.abc import Iterable
from lzma import LZMAError
from typing import TYPE_CHECKING, Literal

from intake_idc.cohort.cohort import Cohort
from intake_idc.cohort.difference import compare
from intake_idc.credentials import refuse_in_url
from intake_idc.errors import (
    EmptySelection,
    RequestError,
    SeriesWithdrawn,
    StorageError,
    UnknownValue,
)
from intake_idc.formats import Lines, Problem, check_problems
from intake_idc.release import FixedRows, Release, open_release
from intake_idc.release.history import histories, locate, widest, with_others

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import pyarrow as pa

    from intake_idc.cohort.difference import Difference
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
    path: str | os.PathLike[str],
    *,
    idc_version: int | str | None = None,
    tables: str | os.PathLike[str] | None = None,
    digest: Mapping[str, str] | str | None = None,
    mirror: str | os.PathLike[str] | Mirror | None = None,
    problems: Literal["raise", "report"] = "raise",
) -> Cohort:
    """Open an s5cmd manifest as a cohort of exactly its series, in its order.

    A series is found by its uuid in whichever release holds it, and read from the
    bucket where it lies today, whatever bucket the manifest names. A series that the
    release no longer holds, or not yet, is a problem that says when it went or came.

    Parameters
    ----------
    path : str or path
        A file, or a URL that fsspec reads.
    idc_version : int or "current", optional
        The release that the cohort belongs to. By default the one that the
        manifest's header names, else the current one.
    tables, digest, mirror
        As in `open_idc`.
    problems : "raise" or "report"
        What to do with lines that give no series: refuse the manifest, or go on
        without them. Either way `Cohort.problems` has what was remarked.

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
    name = os.fspath(path)
    refuse_in_url(name, "manifest")
    lines = _read(name)
    named: set[int] = set()
    if idc_version is None:
        named.update(lines.idc_versions)
        idc_version = max(named) if named else "current"
    release = open_release(idc_version, tables, digest)
    found = _resolved(lines, release, {release.idc_version, *named})
    if problems == "raise":
        check_problems(name, lines.problems, taken=found.num_rows)
    if not found.num_rows:
        rejected = "".join(f"\n  {problem}" for problem in lines.problems[:10])
        msg = f"the manifest {name} names no series{rejected}"
        raise EmptySelection(msg, name=name, problems=tuple(lines.problems))
    from intake_idc.manifest import Manifest

    manifest = Manifest(found, release.idc_version, name)
    rows = FixedRows(manifest, release.spec, release.digest)
    return Cohort(
        rows, mirror=_own_mirror(mirror, release), problems=tuple(lines.problems)
    )


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
    if found.num_rows < len(names):
        lives = histories(widest(release), key, names)
        if anywhere:
            _all_known(key, names, lives, release)
            release = release.at(_newest_of_all(names, lives, release))
            found = locate(release, key, names)
        found = _completed(found, key, names, lives, release, problems, anywhere)
    from intake_idc.manifest import Manifest

    manifest = Manifest(
        found.drop_columns(["position"]), release.idc_version, f"a list by {key}"
    )
    rows = FixedRows(manifest, release.spec, release.digest)
    return Cohort(rows, mirror=_own_mirror(mirror, release), problems=tuple(problems))


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


def _read(name: str) -> Lines:
    import fsspec

    from intake_idc.formats import s5cmd

    try:
        with fsspec.open(name, "rb", compression="infer") as file:
            return s5cmd.read(file.read())
    except RequestError:
        raise
    except (OSError, ValueError, EOFError, ImportError, zlib.error, LZMAError) as error:
        msg = f"the manifest {name} cannot be read: {error}"
        raise StorageError(msg, path=name) from error


def _resolved(lines: Lines, release: Release, judged: set[int]) -> pa.Table:
    """Find the series of a manifest, and account for every one that stands out.

    ``judged`` are the releases that the manifest is of: what none of them holds any
    more is rejected, what one of them has with other bytes is taken as it is.
    """
    found = locate(release, "crdc_series_uuid", lines.uuids)
    there = set(found.column("position").to_pylist())
    missing = [i for i in range(len(lines.uuids)) if i not in there]
    if missing:
        names = [lines.uuids[i] for i in missing]
        lives = histories(widest(release), "crdc_series_uuid", names)
        stray = []
        for i in missing:
            reason, taken = _judge(lines.uuids[i], lives, release, judged)
            add = lines.remark if taken else lines.reject
            add(lines.numbers[i], lines.texts[i], reason)
            stray += [i] if taken else []
        names = [lines.uuids[i] for i in stray]
        found = with_others(release, found, stray, names)
    lines.problems.sort(key=lambda problem: problem.line)
    return found.drop_columns(["position"])


def _judge(
    uuid: str, lives: Mapping[str, History], release: Release, judged: set[int]
) -> tuple[str, bool]:
    """Say of a uuid that a release does not hold why, and whether it is taken."""
    life = lives.get(uuid)
    number = release.idc_version
    if life is None:
        return f"no release in {release.source} holds this series", False
    if any(life.at(version) for version in judged):
        held = life.releases_of(uuid)
        return f"belongs to {held}, not {number}; its own bytes are taken", True
    reason = (
        f"release {number} does not hold this series, which is of {life.releases}: "
        f"{life.absence(number)}; idc_version={life.nearest(number)} takes it"
    )
    return reason, False


def _own_mirror(
    mirror: str | os.PathLike[str] | Mirror | None, release: Release
) -> Mirror | None:
    """Give the mirror that was named; the embedded sample is its own."""
    from intake_idc.storage import resolve_mirror

    named = "sample" if mirror is None and release.spec == "sample" else mirror
    return None if named is None else resolve_mirror(named, environment=False)
