"""Which dialect a manifest is in, by its first bytes.

The content decides; the ending of the name only where the content leaves it open.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from typing import Literal

from intake_idc.formats.columns import identifies, known, named
from intake_idc.formats.encodings import unmarked
from intake_idc.formats.front import PREAMBLE, STRAY

__all__ = ["Kind", "recognise"]

Kind = Literal["lines", "csv", "tsv", "ndjson", "json", "parquet", "arrow", "tcia"]
"""A dialect. ``lines`` is one command, URL, DRS identifier or bare name a line."""

_MAGIC: dict[bytes, Kind] = {
    b"PAR1": "parquet",
    b"PARE": "parquet",
    b"ARROW1": "arrow",
    b"FEA1": "arrow",
}
_ENDINGS: dict[str, Kind] = {
    ".csv": "csv",
    ".tsv": "tsv",
    ".tab": "tsv",
    ".ndjson": "ndjson",
    ".jsonl": "ndjson",
    ".json": "json",
    ".parquet": "parquet",
    ".pq": "parquet",
    ".arrow": "arrow",
    ".arrows": "arrow",
    ".feather": "arrow",
    ".ipc": "arrow",
    ".tcia": "tcia",
    ".s5cmd": "lines",
    ".txt": "lines",
}
_PACKED = re.compile(r"\.(?:gz|bz2|xz|zip)$", re.IGNORECASE)
_ARROW_STREAM = b"\xff\xff\xff\xff"
_LONGEST_SCHEMA = 1 << 28

_TCIA = re.compile(
    r"(?m)^(?:downloadServerUrl|includeAnnotation|databasketId|noOfrRetry"
    r"|manifestVersion|ListOfSeriesToDownload)="
)
_COMMAND = re.compile(
    r"(?:cp|sync|mv|rm|run|ls|cat|du|pipe|select|head)\s", re.IGNORECASE
)
_SEP = re.compile("sep=", re.IGNORECASE)
_EXPORTED = {"f0_", "study_manifest_cp_command"}
"""Column names above lines of commands."""
LOOKED_AT = 50
"""Lines by which it is decided."""


def recognise(head: bytes, name: str = "") -> Kind:
    r"""Say which dialect a manifest is in.

    Parameters
    ----------
    head : bytes
        How it begins, unpacked; 64 KiB are plenty.
    name : str
        What it is called, for its ending.

    Examples
    --------
    >>> recognise(b"PatientID,SeriesInstanceUID\r\nP1,1.2.3.4\r\n", "list.txt")
    'csv'
    """
    for magic, binary in _MAGIC.items():
        if head.startswith(magic):
            return binary
    if head.startswith(_ARROW_STREAM):
        length = int.from_bytes(head[4:8], "little")
        if 0 < length < _LONGEST_SCHEMA and length % 8 == 0:
            return "arrow"
    by_name = _by_name(name)
    text = _text(head)
    start = text.lstrip()
    if start.startswith(("{", "[")):
        document = _json(start, by_name)
        if document:
            return document
    if _TCIA.search(text[: 4 << 10]):
        return "tcia"
    return _lines(text, by_name)


def _by_name(name: str) -> Kind | None:
    name = _PACKED.sub("", name.split("?", 1)[0].strip().lower())
    for ending, kind in _ENDINGS.items():
        if name.endswith(ending):
            return kind
    return None


def _text(head: bytes) -> str:
    encoding: str = unmarked(head) or "utf-8"
    if head.startswith((b"\xff\xfe", b"\xfe\xff")):
        encoding = "utf-16"
    text = head.decode(encoding, "replace").removeprefix("\ufeff")
    return text.replace("\r\n", "\n").replace("\r", "\n")


def _json(start: str, by_name: Kind | None) -> Kind | None:
    """Tell one object a line from a document; None where it is neither."""
    first, _, rest = start.partition("\n")
    try:
        value = json.loads(first)
    except (ValueError, RecursionError):
        # IndexD writes its places as [gs://.., s3://..]: no JSON, but a cell.
        return None if re.match(r"\[\s*[a-z0-9]+:", first) else "json"
    if not isinstance(value, dict):
        return "json"
    if rest.strip():
        return "ndjson" if rest.lstrip().startswith("{") else "json"
    # One object on one line is both; an answer of an API holds its rows within.
    within = any(isinstance(each, (dict, list)) for each in value.values())
    return "json" if within and by_name != "ndjson" else "ndjson"


def _lines(text: str, by_name: Kind | None) -> Kind:
    lines = text.split("\n")
    rows = [line.strip(" ") for line in lines[: LOOKED_AT + 1] if line.strip()]
    rows = [line for line in rows if not line.startswith("#")]
    if not rows:
        return by_name or "lines"
    table = [row for row in rows if not PREAMBLE.match(row)]
    first = table[0] if table else ""
    if first.strip() in _EXPORTED or _COMMAND.match(first):
        return "lines"
    delimited: Kind | None = "csv" if _SEP.match(first) else _delimited(table, by_name)
    if delimited:
        return delimited
    if len(table) < len(rows):
        # What the portal writes above a table, and nothing that says which.
        return by_name if by_name in ("csv", "tsv") else "csv"
    bare = identifies(first.strip("\"' "))
    return "lines" if bare else by_name or _by_counts(table)


def _delimited(table: Sequence[str], by_name: Kind | None) -> Kind | None:
    """Say what delimits cells that are names of columns, or identifiers."""
    best: tuple[int, Kind] | None = None
    for delimiter, kind in _ordered(by_name):
        score = 0
        for index, row in enumerate(table[:LOOKED_AT]):
            cells = [cell.strip("\"' ") for cell in row.split(delimiter)]
            looks = [look for look in map(identifies, cells) if look != "release"]
            if len(cells) > 1 and any(looks):
                score = max(score, sum(map(bool, looks)))
            elif index <= STRAY and not any(looks) and named(known(cells)):
                score = max(score, len(known(cells)) + 1)
                break
        if score and (best is None or score > best[0]):
            best = score, kind
    return best[1] if best else None


def _ordered(by_name: Kind | None) -> list[tuple[str, Kind]]:
    order: list[tuple[str, Kind]] = [(",", "csv"), ("\t", "tsv"), (";", "csv")]
    return order if by_name != "tsv" else [order[1], order[0], order[2]]


def _by_counts(table: Sequence[str]) -> Kind:
    """Guess by what every line has of: tabs, commas, or neither."""
    for delimiter, kind in _ordered(None)[:2]:
        if all(delimiter in row for row in table[:LOOKED_AT]):
            return kind
    return "lines"
