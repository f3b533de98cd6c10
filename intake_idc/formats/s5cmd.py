"""s5cmd manifests of every generation, in and out.

The grammar is that of ``s5cmd run`` (version 2): a line is stripped, empty lines
and lines that begin with ``#`` are passed over, the rest is split as a POSIX shell
splits words. Of its verbs only ``cp`` and ``sync`` from a bucket are taken; a bare
URL is taken too, as IDC's API writes them.
"""

from __future__ import annotations

import re
import shlex
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

from intake_idc.errors import ManifestError
from intake_idc.formats import Problem

if TYPE_CHECKING:
    from collections.abc import Iterator

    from intake_idc.manifest import Manifest

__all__ = ["read", "write"]

UUID = r"[0-9a-fA-F]{8}-[0-9a-fA-F]{4}-[0-9a-fA-F]{4}-[0-9a-fA-F]{4}-[0-9a-fA-F]{12}"

_COMMON = re.compile(rf"(?:cp|sync) (?:s3|gs)://[^/\s]+/({UUID})/\*? +\S+$")
_SERIES = re.compile(rf"(?:s3|gs)://[^/\s]+/({UUID})(?:/\*?)?$")
_INSTANCE = re.compile(rf"(?:s3|gs)://[^/\s]+/(?:{UUID}/)?{UUID}\.dcm$")
_RELEASES = re.compile(r"IDC Data Version\(s\): (.*)")
_RECORDS = re.compile(r"Total records found: (\d+)")
_RELEASE = re.compile(r"Version (\d+)(?:\.\d+)?\b")

VERBS = {"cp", "sync"}
HEADER_CELLS = {"f0_", "study_manifest_cp_command"}
"""Column names that an export leaves on a line of their own."""
VALUE_FLAGS = {
    "--storage-class", "-c", "--concurrency", "-p", "--part-size", "--metadata",
    "--metadata-directive", "--sse", "--sse-kms-key-id", "--acl", "--cache-control",
    "--expires", "--source-region", "--destination-region", "--exclude", "--include",
    "--content-type", "--content-encoding", "--content-disposition",
    "--no-such-upload-retry-count", "--version-id",
}  # fmt: skip
"""Flags of ``cp`` that take the next word as their value."""
LONGEST_LINE = 4096


@dataclass(frozen=True)
class Lines:
    """What a manifest names, before a release has been asked."""

    numbers: list[int] = field(default_factory=list)
    """Line that each series was read from."""
    texts: list[str] = field(default_factory=list)
    """That line, for reports."""
    uuids: list[str] = field(default_factory=list)
    """``crdc_series_uuid`` of each series, in lower case."""
    problems: list[Problem] = field(default_factory=list)
    """Lines that were rejected, or taken with a remark."""
    idc_versions: list[int] = field(default_factory=list)
    """Releases that the manifest's own header names."""

    def reject(self, line: int, text: str, reason: str) -> None:
        """Account for a line that gives no row."""
        self.problems.append(Problem(line, text[:200], reason))

    def remark(self, line: int, text: str, reason: str) -> None:
        """Account for a line that was taken with a remark."""
        self.problems.append(Problem(line, text[:200], reason, rejected=False))


def read(data: bytes | str) -> Lines:
    """Read an s5cmd manifest; every line becomes a row, a problem or a comment.

    The bucket of a line is not kept: a series is found by its uuid, in the bucket
    where it lies today, because buckets were retired and collections moved.

    Raises
    ------
    ManifestError
        It is not text in UTF-8.
    """
    lines = Lines()
    first_seen: dict[str, int] = {}
    announced: tuple[int, str, int] | None = None
    counted = 0
    for number, raw in enumerate(_text(data).split("\n"), 1):
        line = raw.strip()
        if not line:
            continue
        if line.startswith("#"):
            announced = _read_comment(number, line, lines) or announced
            continue
        counted += line not in HEADER_CELLS
        if len(line) > LONGEST_LINE:
            lines.reject(number, line, f"longer than {LONGEST_LINE} characters")
            continue
        common = _COMMON.match(line)
        uuid = common[1] if common else _read_line(number, line, lines)
        if uuid is None:
            continue
        uuid = uuid.lower()
        if uuid in first_seen:
            lines.remark(number, line, f"repeats line {first_seen[uuid]}; taken once")
            continue
        first_seen[uuid] = number
        lines.numbers.append(number)
        lines.texts.append(line)
        lines.uuids.append(uuid)
    if announced is not None and announced[2] != counted:
        number, line, records = announced
        reason = f"announces {records:,} records; {counted:,} lines follow"
        lines.remark(number, line, reason)
    return lines


def _text(data: bytes | str) -> str:
    if isinstance(data, str):
        return data.removeprefix("\N{ZERO WIDTH NO-BREAK SPACE}")
    try:
        if data.startswith((b"\xff\xfe", b"\xfe\xff")):
            return data.decode("utf-16")
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        msg = f"the manifest is not text in UTF-8 ({error}); save it as UTF-8"
        raise ManifestError(msg) from error
    if "\0" in text:
        msg = "the manifest holds NUL characters, so it is not text; save it as UTF-8"
        raise ManifestError(msg)
    return text


def _read_comment(number: int, line: str, lines: Lines) -> tuple[int, str, int] | None:
    """Take the releases out of a comment, and the number of records it announces."""
    named = _RELEASES.search(line)
    if named:
        lines.idc_versions.extend(map(int, _RELEASE.findall(named[1])))
    records = _RECORDS.search(line)
    return (number, line, int(records[1])) if records else None


def _read_line(number: int, line: str, lines: Lines) -> str | None:
    """Read one line the slow way: give its series, or account for it."""
    if line in HEADER_CELLS:
        return None
    try:
        words = shlex.split(line)
    except ValueError as error:
        lines.reject(number, line, f"quotes do not match ({error})")
        return None
    source = _source(number, line, words, lines)
    if source is None:
        return None
    series = _SERIES.match(source)
    if series:
        return series[1]
    if _INSTANCE.match(source):
        reason = "names one instance; only whole series (<uuid>/*) are taken"
    elif "://" in source:
        reason = "is no IDC series; expected s3://<bucket>/<crdc_series_uuid>/*"
    else:
        reason = "has no s3:// or gs:// source; uploads and local copies are not obeyed"
    lines.reject(number, line, reason)
    return None


def _source(number: int, line: str, words: list[str], lines: Lines) -> str | None:
    if len(words) == 1 and "://" in words[0]:
        return words[0]
    if not words or words[0] not in VERBS:
        verb = words[0] if words else ""
        lines.reject(
            number, line, f"verb {verb!r} is not cp or sync, and is not obeyed"
        )
        return None
    rest = iter(words[1:])
    paths = []
    for word in rest:
        if word in VALUE_FLAGS:
            next(rest, None)
        elif not word.startswith("-"):
            paths.append(word)
    if len(paths) not in (1, 2):
        lines.reject(number, line, "expected one source and one destination")
        return None
    return paths[0]


def write(
    manifest: Manifest,
    name: str = "<manifest file name>",
    *,
    mirror: Literal["aws", "gcs"] = "aws",
    date: str | None = None,
) -> Iterator[str]:
    """Give an s5cmd manifest of whole series; see `writing.commands.s5cmd`."""
    from intake_idc.formats.writing import Rows, commands

    return commands.s5cmd(Rows(manifest, date=date), name, mirror=mirror)
