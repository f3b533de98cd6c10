"""Manifests out: rows of a release, by series or by instance, in every dialect.

A dialect is a function that gives text in blocks, or writes to a file, and holds no
more of it than a block. `Form` says which, and what of it; it is checked before
anything is asked of tables or mirrors.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import IO, TYPE_CHECKING, Any

from intake_idc.errors import RequestError, nearest
from intake_idc.formats.writing import commands, tables
from intake_idc.formats.writing.rows import COMPUTED, Rows
from intake_idc.formats.writing.tables import guarded, unguarded

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = [
    "COMPUTED",
    "ENDINGS",
    "KINDS",
    "Form",
    "Rows",
    "form_of",
    "guarded",
    "text",
    "unguarded",
    "write",
]

ENDINGS = {
    ".s5cmd": "s5cmd",
    ".txt": "urls",
    ".csv": "csv",
    ".tsv": "tsv",
    ".ndjson": "ndjson",
    ".jsonl": "ndjson",
    ".json": "json",
    ".parquet": "parquet",
    ".sh": "aws",
    ".yml": "yaml",
    ".yaml": "yaml",
}
"""Kind of a file by the ending of its name; ``.sh`` is for the tool of the mirror."""

KINDS = (
    "s5cmd",
    "urls",
    "csv",
    "tsv",
    "ndjson",
    "json",
    "parquet",
    "drs",
    "api-v2",
    "aws",
    "gcloud",
    "yaml",
)
"""Kinds of manifest that can be written."""

_OPTIONS = {
    "columns": ("csv", "tsv", "ndjson", "json", "parquet", "api-v2"),
    "spreadsheet_safe": ("csv", "tsv"),
    "preamble": ("s5cmd", "urls", "csv", "tsv"),
    "scheme": ("urls",),
}
"""Kinds that an option is for."""
_PACKED = ("urls", "csv", "tsv", "ndjson", "json", "drs", "api-v2")
"""Kinds whose readers unpack gzip."""
_UNREAD = (".gz", ".bz2", ".xz", ".zip", ".zst")
LOCK_SUFFIX = ".lock.json"


@dataclass(frozen=True)
class Form:
    """How a manifest is to be written.

    Raises
    ------
    RequestError
        The options do not fit the kind, or each other.
    """

    kind: str
    """One of `KINDS`."""
    mirror: str = "aws"
    """Whose buckets are named: "aws" or "gcs"."""
    level: str = "series"
    """What a row is: "series" or "instance"."""
    columns: tuple[str, ...] = ()
    """Columns besides those of the level."""
    scheme: str | None = None
    """Scheme of plain URLs: "s3", "gs" or "https"."""
    preamble: bool | None = None
    """Whether lines above the first say the release; None is what the kind does."""
    spreadsheet_safe: bool = False
    """Whether cells that a spreadsheet would run are made text."""
    packed: bool = False
    """Whether it is compressed by gzip."""

    @property
    def sized(self) -> bool:
        """Whether bytes of instances are written."""
        return self.kind in _OPTIONS["columns"]

    def __post_init__(self) -> None:
        known = (
            ("kind", KINDS),
            ("mirror", tuple(commands.ENDPOINTS)),
            ("level", ("series", "instance")),
        )
        for option, values in known:
            given = getattr(self, option)
            if given not in values:
                near = nearest(given, values)
                msg = f"{option} of a manifest is one of {', '.join(values)}; "
                raise RequestError(f"{msg}got {given!r}{near}", **{option: given})
        for option, kinds in _OPTIONS.items():
            given = getattr(self, option)
            if given not in (None, False, ()) and self.kind not in kinds:
                msg = f"{option} is for {', '.join(kinds)}, not for {self.kind}"
                raise RequestError(msg, kind=self.kind)
        self._check_kind()

    def _check_kind(self) -> None:
        if self.packed and self.kind not in _PACKED:
            what = {"s5cmd": "an s5cmd manifest is plain text", "parquet": "Parquet"}
            msg = f"{what.get(self.kind, self.kind)}: leave .gz out of the name"
            raise RequestError(msg, kind=self.kind)
        if self.kind == "aws" and self.mirror == "gcs":
            msg = "a script for aws reads AWS; kind='gcloud' reads Google"
            raise RequestError(msg, kind=self.kind, mirror=self.mirror)
        if self.kind == "yaml" and self.level == "instance":
            msg = "a catalog entry is a cohort; it has no level"
            raise RequestError(msg, kind=self.kind)
        if self.kind == "drs":
            tables.check_drs(self.level)
        if self.scheme is not None:
            commands.check_scheme(self.scheme, self.mirror, self.level)


def form_of(name: str, kind: str | None = None, **options: Any) -> Form:
    """Give the form of a manifest by the name of its file, checked.

    Parameters
    ----------
    name : str
        Name of the file; ``.gz`` at its end asks for gzip.
    kind : str, optional
        One of `KINDS`, whatever the name ends in.
    options
        Fields of `Form`.

    Raises
    ------
    RequestError
        The name ends in nothing that is known, or the options do not fit.
    """
    lower = name.lower()
    packed = lower.endswith(".gz")
    bare = lower.removesuffix(".gz")
    if kind is None:
        ending = f".{bare.rpartition('.')[2]}" if "." in bare else ""
        if ending in _UNREAD:
            msg = f"a manifest is written plain, or as .gz; got {name!r}"
            raise RequestError(msg, name=name)
        kind = None if bare.endswith(LOCK_SUFFIX) else ENDINGS.get(ending)
        if kind is None:
            how = "Cohort.lock writes a lock; " if bare.endswith(LOCK_SUFFIX) else ""
            msg = (
                f"a manifest ends in {', '.join(ENDINGS)}; got {name!r}; "
                f"{how}kind= names another kind: {', '.join(KINDS)}"
            )
            raise RequestError(msg, name=name)
        if ending == ".sh" and options.get("mirror") == "gcs":
            kind = "gcloud"
    return Form(kind, packed=packed, **options)


def text(rows: Rows, form: Form, name: str) -> Iterator[str]:
    """Give a manifest as text, in blocks; ``name`` is that of its file.

    Raises
    ------
    RequestError
        The rows are not of the level, hold a part of a series, or a name that the kind
        cannot write; or the kind is no text.
    """
    if rows.level != form.level:
        msg = f"rows are of level {rows.level!r}; asked for was {form.level!r}"
        raise RequestError(msg, level=rows.level)
    mirror: Any = form.mirror
    columns = form.columns
    head = form.preamble is not False
    if form.kind == "s5cmd":
        return commands.s5cmd(rows, name, mirror=mirror, header=head)
    if form.kind == "urls":
        return commands.urls(rows, mirror=mirror, scheme=form.scheme, header=head)
    if form.kind in ("aws", "gcloud"):
        tool: Any = form.kind
        return commands.script(rows, tool, name)
    if form.kind in ("csv", "tsv"):
        return tables.delimited(
            rows,
            "," if form.kind == "csv" else "\t",
            columns,
            preamble=bool(form.preamble),
            spreadsheet_safe=form.spreadsheet_safe,
        )
    if form.kind == "drs":
        return tables.drs(rows)
    written = {
        "ndjson": tables.ndjson,
        "json": tables.json_array,
        "api-v2": tables.api_v2,
    }
    if form.kind not in written:
        msg = f"{form.kind} is not written as text"
        raise RequestError(msg, kind=form.kind)
    return written[form.kind](rows, columns)


def write(rows: Rows, form: Form, file: IO[bytes], name: str) -> None:
    """Write a manifest to a file; see `text`.

    The same rows give the same bytes.
    """
    if form.kind == "parquet":
        tables.parquet(rows, file, form.columns)
    elif form.packed:
        import gzip

        with gzip.GzipFile("", "wb", fileobj=file, mtime=0) as packed:
            for block in text(rows, form, name):
                packed.write(block.encode())
    else:
        for block in text(rows, form, name):
            file.write(block.encode())
