"""One door to every dialect: from what a manifest is given as to what it names."""

from __future__ import annotations

import glob
import os
import re
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Literal, get_args

from intake_idc.errors import ManifestError, MissingError, RequestError
from intake_idc.formats import BIGQUERY, Listing, lines
from intake_idc.formats.source import files, natural

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from intake_idc.formats.source import Bytes

__all__ = ["KINDS", "Kind", "read"]

Kind = Literal[
    "lines", "s5cmd", "urls", "aws", "gcloud", "tcia",
    "csv", "tsv", "drs", "ndjson", "json", "api-v2", "parquet", "arrow",
    "crdc_series_uuid", "crdc_instance_uuid", "SeriesInstanceUID",
    "StudyInstanceUID", "SOPInstanceUID", "PatientID", "collection_id",
]  # fmt: skip
"""What a manifest may be said to be: a dialect, or what each line of a list is."""

KINDS: tuple[str, ...] = get_args(Kind)

_LINES = {"lines", "s5cmd", "urls", "aws", "gcloud"}
_IDENTIFIERS: tuple[str, ...] = get_args(lines.Identifier)
_SAME = {"drs": "csv", "api-v2": "json"}


def read(given: Any, kind: str | None = None) -> list[Listing]:
    """Read a manifest, in whatever dialect and however it is given.

    Parameters
    ----------
    given : path, URL, sequence of them, pyarrow.Table, data frame, or list of texts
        A file may be packed (gzip, bzip2, xz, zip), and its name may be a pattern,
        such as ``"manifest_Part*.csv"``. A sequence of texts is read as the lines of a
        list, unless every one is a file that is there. A table in BigQuery is named
        by ``bigquery://<project>.<dataset>.<table>``.
    kind : str, optional
        One of `KINDS`; by default it is known by the content.

    Returns
    -------
    list of Listing
        One for each file.

    Raises
    ------
    ManifestError
        It is no manifest of any kind, or not of the one that was said.
    StorageError
        It cannot be read.
    RequestError
        It is not given as any of these, or the kind is not known.
    """
    if kind is not None and kind not in KINDS:
        msg = f"unknown kind of manifest {kind!r}; known are {', '.join(KINDS)}"
        raise RequestError(msg, kind=kind)
    if isinstance(given, str) and given.startswith(BIGQUERY):
        from intake_idc.formats import bigquery

        return [replace(bigquery.read(given), part=given)]
    if isinstance(given, str | os.PathLike):
        return [_read(source, kind) for source in _sources(os.fspath(given))]
    if _is_table(given):
        return [replace(_of_table(given), part=f"a {type(given).__name__}")]
    if isinstance(given, bytes | dict) or not hasattr(given, "__iter__"):
        msg = (
            "a manifest is a path, a table, a data frame or a list; got "
            f"{type(given).__name__}"
        )
        raise RequestError(msg)
    return _several(list(given), kind)


def _several(given: Sequence[Any], kind: str | None) -> list[Listing]:
    paths = [item for item in given if isinstance(item, os.PathLike)]
    for item in given:
        if not isinstance(item, str | os.PathLike):
            msg = f"a list holds texts or paths; got {item!r}, {type(item).__name__}"
            raise RequestError(msg)
    there = given and all(os.path.isfile(item) for item in given)  # noqa: PTH113
    if paths or there:
        sources = (source for item in given for source in _sources(os.fspath(item)))
        return [_read(source, kind) for source in sources]
    if kind is not None and kind not in {*_LINES, *_IDENTIFIERS}:
        msg = f"a list of texts is read as lines or as identifiers, not as {kind!r}"
        raise RequestError(msg, kind=kind)
    identifier: Any = kind if kind in _IDENTIFIERS else None
    listing = lines.read_texts([str(item) for item in given], identifier)
    return [replace(listing, part="a list")]


def _sources(name: str) -> Iterable[Bytes]:
    """Give the files that a path names; a pattern of local files may name several."""
    pattern = "://" not in name and re.search(r"[*?\[]", name)
    if not pattern or os.path.exists(name):  # noqa: PTH110
        return files(name)
    found = sorted(glob.glob(name), key=natural)  # noqa: PTH207
    if not found:
        msg = f"no file is like {name}"
        raise MissingError(msg, path=name)
    return [source for path in found for source in files(path)]


def _read(source: Bytes, kind: str | None) -> Listing:
    try:
        listing = _of_kind(source, kind)
    except ManifestError as error:
        if source.name in str(error):
            raise
        msg = f"{source.name}: {error}"
        raise ManifestError(msg, **{**error.details, "name": source.name}) from error
    return replace(listing, part=source.name)


def _of_kind(source: Bytes, kind: str | None) -> Listing:
    if kind is None:
        from intake_idc.formats.recognising import recognise

        kind = recognise(source.head, source.name)
    if kind in _IDENTIFIERS:
        identifier: Any = kind
        return lines.read(source, "lines", identifier)
    if kind in _LINES:
        return lines.read(source)
    if kind == "tcia":
        return lines.read(source, "tcia")
    from intake_idc.formats import tabular

    form: Any = _SAME.get(kind, kind)
    return tabular.read(source, form)


def _is_table(given: object) -> bool:
    """Say whether something is an Arrow table or a data frame, importing neither."""
    return hasattr(given, "column_names") or hasattr(given, "columns")


def _of_table(given: Any) -> Listing:
    from intake_idc.formats import tabular

    return tabular.read_table(given)
