"""The doors: a release, or a manifest, as a cohort."""

from __future__ import annotations

import os
import zlib
from lzma import LZMAError
from typing import TYPE_CHECKING, Literal

from intake_idc.cohort.cohort import Cohort
from intake_idc.credentials import refuse_in_url
from intake_idc.errors import EmptySelection, RequestError, StorageError
from intake_idc.formats import Lines, check_problems
from intake_idc.release import FixedRows, Release, open_release

if TYPE_CHECKING:
    from collections.abc import Mapping

    import pyarrow as pa

    from intake_idc.storage import Mirror

__all__ = ["open_idc", "open_manifest"]


def open_idc(
    idc_version: int | Literal["current"] = "current",
    *,
    tables: str | os.PathLike[str] | None = None,
    digest: Mapping[str, str] | str | None = None,
    mirror: str | os.PathLike[str] | Mirror | None = None,
) -> Cohort:
    """Open a release as a cohort to narrow with `Cohort.search`.

    Parameters
    ----------
    idc_version : int or "current"
        The release; "current" is resolved at once to a number.
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
    idc_version: int | Literal["current"] | None = None,
    tables: str | os.PathLike[str] | None = None,
    digest: Mapping[str, str] | str | None = None,
    mirror: str | os.PathLike[str] | Mirror | None = None,
    problems: Literal["raise", "report"] = "raise",
) -> Cohort:
    """Open an s5cmd manifest as a cohort of exactly its series, in its order.

    A series is found by its uuid in whichever release holds it, and read from the
    bucket where it lies today, whatever bucket the manifest names.

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
    if idc_version is None:
        named = lines.idc_versions
        idc_version = max(named) if named else "current"
    release = open_release(idc_version, tables, digest)
    found = _resolved(lines, release)
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


def _resolved(lines: Lines, release: Release) -> pa.Table:
    """Find the series of a manifest, and account for those that are not found."""
    found = release.resolve(lines.uuids)
    positions = found.column("position").to_pylist()
    for position in sorted(set(range(len(lines.uuids))) - set(positions)):
        reason = f"no release in {release.source} holds this series"
        lines.reject(lines.numbers[position], lines.texts[position], reason)
    firsts = found.column("first_idc_version").to_pylist()
    lasts = found.column("last_idc_version").to_pylist()
    for position, first, last in zip(positions, firsts, lasts, strict=True):
        if not first <= release.idc_version <= last:
            reason = (
                f"belongs to releases {first} to {last}, not {release.idc_version}; "
                "its own bytes are taken"
            )
            lines.remark(lines.numbers[position], lines.texts[position], reason)
    lines.problems.sort(key=lambda problem: problem.line)
    return found.drop_columns(["position", "first_idc_version", "last_idc_version"])


def _own_mirror(
    mirror: str | os.PathLike[str] | Mirror | None, release: Release
) -> Mirror | None:
    """Give the mirror that was named; the embedded sample is its own."""
    from intake_idc.storage import resolve_mirror

    named = "sample" if mirror is None and release.spec == "sample" else mirror
    return None if named is None else resolve_mirror(named, environment=False)
