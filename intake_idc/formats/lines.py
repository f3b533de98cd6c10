"""Manifests of one thing a line: s5cmd commands, URLs, DRS identifiers, bare names.

The grammar of commands is that of ``s5cmd run`` (version 2): a line is stripped, empty
lines and lines that begin with ``#`` are passed over, the rest is split as a POSIX
shell splits words. Of its verbs only ``cp`` and ``sync`` from a bucket are taken; a
bare URL is taken too, as IDC's API writes them, and so are the names that
`intake_idc.formats.places.place` knows. No destination is used.

The first line of a form is read word by word, those that are like it all at once; see
`intake_idc.formats.alike`.
"""

from __future__ import annotations

import re
import shlex
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any, Literal

from intake_idc.arrow import integers, is_text, packed, texts
from intake_idc.formats import UUID_NAMES, Listing, Problem
from intake_idc.formats.alike import (
    LONGEST_LINE,
    Alone,
    Block,
    Found,
    Spelled,
    ending,
    tables,
)
from intake_idc.formats.announcing import records_in, releases_in
from intake_idc.formats.places import BUCKETS, LONGEST_UID, UID, UUID, place, uuid_bytes
from intake_idc.formats.source import line_texts, utf8, whole_lines

if TYPE_CHECKING:
    import pyarrow as pa

    from intake_idc.formats.source import Bytes

__all__ = ["Identifier", "read", "read_texts"]

Identifier = Literal[
    "crdc_series_uuid",
    "crdc_instance_uuid",
    "SeriesInstanceUID",
    "StudyInstanceUID",
    "SOPInstanceUID",
    "PatientID",
    "collection_id",
]
"""What every line of a list may be said to be."""

_COMMON = re.compile(
    r"(?:cp|sync) +(?:--show-progress +)?(['\"]?)(?:s3|gs)://([^/\s'\"]+)/"
    rf"({UUID})/\*?\1 +(?:[^\s'\"\\]+|\"[^\"\\]*\"|'[^']*')"
)
_ONE_UUID = re.compile(UUID)
_UID = re.compile(UID)
_SETTING = re.compile(r"\w+=.*")
TCIA_LIST = "ListOfSeriesToDownload="

COMMANDS = [
    text.split()
    for text in (
        "cp", "sync", "aws s3 cp", "aws s3 sync", "gcloud storage cp",
        "gcloud storage rsync", "gsutil cp", "gsutil -m cp", "gsutil rsync",
        "gsutil -m rsync",
    )
]  # fmt: skip
"""How a line may begin that copies from a bucket."""
VERBS = {words[0] for words in COMMANDS}
_ASIDE = re.compile(r"set -\w+|export \w+=\S+|mkdir -p \S+")
"""Lines that a script of ours has beside its commands, and that name nothing."""
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
_WORD = re.compile(r"[^ \t\r\n]+")
_HERE = (b".", b"./")
"""Destinations that do not differ from line to line."""
FORMS = 32
"""Forms of lines that are looked for; lines of any other are read word by word."""
TOGETHER = 50_000
"""Texts of a list that are read at once."""


def read(
    source: Bytes,
    kind: Literal["lines", "tcia"] = "lines",
    identifier: Identifier | None = None,
) -> Listing:
    """Read a manifest line by line; every line becomes a row, a problem or a comment.

    Parameters
    ----------
    source : Bytes
        The text, in UTF-8, or in UTF-16 with its mark.
    kind : "lines" or "tcia"
        Whether it is a file of NBIA's retriever, with settings above a list of
        SeriesInstanceUIDs.
    identifier : str, optional
        What every line is, where its form does not tell: an identifier of a patient
        can be any text.

    Raises
    ------
    ManifestError
        A line is longer than any could be.
    StorageError
        It cannot be read.
    """
    reader = _Reader(kind, identifier)
    for block in whole_lines(utf8(source.blocks())):
        reader.feed(block)
    return reader.listing(source)


def read_texts(given: list[str], identifier: Identifier | None = None) -> Listing:
    """Read a list of texts as lines; see `read`."""
    reader = _Reader("lines", identifier)
    if any("\n" in text for text in given) or not all(map(is_text, given)):
        for number, text in enumerate(given, 1):
            reader.take(number, text.strip())
        reader.gather()
    else:
        for start in range(0, len(given), TOGETHER):
            some = given[start : start + TOGETHER]
            reader.feed("\n".join([*some, ""]).encode())

    def reread(wanted: Any) -> dict[int, str]:
        return {line: given[line - 1][:200] for line in wanted}

    return replace(reader.listing(None), reread=reread)


class _Reader:
    """What was read of a manifest so far."""

    def __init__(self, kind: str, identifier: Identifier | None) -> None:
        self.problems: list[Problem] = []
        self.idc_versions: list[int] = []
        self._kind = kind
        self._identifier = identifier
        self._in_settings = kind == "tcia"
        self._announced: tuple[int, str, int] | None = None
        self._counted = 0
        self._lines = 0
        self._forms: list[Alone | Spelled] = []
        # Rows of the block at hand that were read word by word.
        self._named: list[tuple[int, dict[str, str]]] = []
        self._gathered: list[pa.Table] = []

    # Whole blocks.

    def feed(self, data: bytes) -> None:
        """Read some whole lines."""
        import numpy as np

        block = Block(data)
        alike: list[Found] = []
        tried = 0
        while True:
            for form in self._forms[tried:]:
                found = form.within(block)
                if len(found.lines):
                    block.left[found.lines] = False
                    self._counted += len(found.lines)
                    alike.append(found)
            tried = len(self._forms)
            grown = False
            for at in np.flatnonzero(block.left).tolist():
                block.left[at] = False
                if self._line(self._lines + 1 + at, block.line(at)):
                    # It is read once more, with those that are like it.
                    block.left[at] = grown = True
                    break
            if not grown:
                break
        self.gather(tables(alike, self._lines))
        self._lines += len(block.ends)

    def _line(self, number: int, line: bytes) -> bool:
        """Read one line; say whether it was of a form that others may have."""
        try:
            text = line.decode()
        except UnicodeDecodeError:
            shown = line.decode("utf-8", "replace").strip()
            if shown.startswith("#"):
                self._comment(number, shown)
                return False
            self._reject(number, shown, "is not text in UTF-8")
            self._counted += 1
            return False
        names = self.take(number, text.strip())
        if names is None or len(self._forms) >= FORMS:
            return False
        form = self._form(line, names)
        if form is None or form in self._forms:
            return False
        self._forms.append(form)
        self._named.pop()
        self._counted -= 1
        return True

    def _form(self, line: bytes, names: dict[str, str]) -> Alone | Spelled | None:
        """Give the form of a line, if others can be of it."""
        if len(names) == 1:
            ((name, text),) = names.items()
            if name not in (*UUID_NAMES, "uuid"):
                return Alone(name) if text.encode() == line else None
        head, open_end = ending(line)
        if open_end and line[len(head) :] not in _HERE and self._identifier is None:
            # Whatever the last word is, the others name the same.
            command = _paths(head.decode())
            if isinstance(command, list) and len(command) == 1:
                form = Spelled.of(head, names, open_end)
                if form is not None:
                    return form
        return Spelled.of(line, names, "")

    def gather(self, alike: list[pa.Table] | None = None) -> None:
        """Put the rows of a block together, in the order of their lines."""
        found = alike or []
        if self._named:
            found.append(_of_names(self._named))
            self._named = []
        if not found:
            return
        import pyarrow as pa

        table = found[0]
        if len(found) > 1:
            table = pa.concat_tables(found, promote_options="default")
            table = table.sort_by("line")
        self._gathered.append(table)

    def listing(self, source: Bytes | None) -> Listing:
        """Give all that was read."""
        import pyarrow as pa

        if self._announced is not None and self._announced[2] != self._counted:
            number, line, records = self._announced
            reason = f"announces {records:,} records; {self._counted:,} lines follow"
            self.problems.append(Problem(number, line[:200], reason, rejected=False))
        empty = pa.table({"line": integers([])})
        return Listing(
            self._kind,
            pa.concat_tables([empty, *self._gathered], promote_options="default"),
            sorted(self.problems, key=lambda problem: problem.line),
            tuple(dict.fromkeys(self.idc_versions)),
            None if source is None else partial(line_texts, source),
        )

    # One line.

    def take(self, number: int, line: str) -> dict[str, str] | None:
        """Read one line, stripped: give what it names, or account for it."""
        if not line or line.startswith("#"):
            self._comment(number, line)
            return None
        if self._in_settings:
            self._setting(number, line)
            return None
        bare = self._kind == "tcia" or self._identifier is not None
        if not bare and (line in HEADER_CELLS or _ASIDE.fullmatch(line)):
            return None
        self._counted += 1
        wrong = _no_text(line)
        if wrong:
            self._reject(number, line, wrong)
            return None
        names = self._names(number, line)
        if names is not None:
            self._named.append((number, names))
        return names

    def _names(self, number: int, line: str) -> dict[str, str] | None:
        if self._kind == "tcia" or self._identifier is not None:
            found = identified(line, self._identifier or "SeriesInstanceUID")
            if isinstance(found, dict):
                return found
            self._reject(number, line, found)
            return None
        common = _COMMON.fullmatch(line)
        if common and common[2] in BUCKETS:
            return {"crdc_series_uuid": common[3].lower()}
        alone = not re.search(r"[\s'\"]", line) and line not in VERBS
        source = line if alone else self._source(number, line)
        if source is None:
            return None
        found = place(source)
        if isinstance(found, dict):
            return found
        if "://" not in source:
            found = (
                f"{found}; a list of something else needs kind=, such as 'PatientID'"
                if alone
                else "has no s3:// or gs:// source; uploads and local copies are not "
                "obeyed"
            )
        self._reject(number, line, found)
        return None

    def _source(self, number: int, line: str) -> str | None:
        """Give the source of a command, or account for the line."""
        found = _paths(line)
        if isinstance(found, list) and len(found) in (1, 2):
            return found[0]
        if not isinstance(found, str):
            found = "expected one source and one destination"
        self._reject(number, line, found)
        return None

    def _comment(self, number: int, line: str) -> None:
        """Take the releases and the announced number of records out of a comment."""
        self.idc_versions += releases_in(line)
        records = records_in(line)
        if records is not None:
            self._announced = number, line, records

    def _setting(self, number: int, line: str) -> None:
        if line == TCIA_LIST:
            self._in_settings = False
        elif not _SETTING.fullmatch(line):
            self._reject(number, line, f"stands above {TCIA_LIST} and is no setting")

    def _reject(self, number: int, line: str, reason: str) -> None:
        self.problems.append(Problem(number, line[:200], reason))


def _no_text(line: str) -> str:
    if len(line) > LONGEST_LINE:
        return f"longer than {LONGEST_LINE} characters"
    if "\0" in line:
        return "holds NUL characters, so it is not text"
    return "" if is_text(line) else "holds half a character, so it is no text"


def identified(text: str, name: str) -> dict[str, str] | str:
    """Give a text as the name that it is said to be, or say why it is none."""
    if name in UUID_NAMES:
        good = _ONE_UUID.fullmatch(text)
        return {name: text.lower()} if good else f"is no {name}, which is a uuid"
    if name.endswith("UID"):
        good = _UID.fullmatch(text[: LONGEST_UID + 1])
        return (
            {name: text}
            if good and len(text) <= LONGEST_UID
            else f"is no {name}, which is a DICOM UID"
        )
    return {name: text}


def _paths(line: str) -> list[str] | str:
    """Give the paths of a command that copies, or say why it is none."""
    if re.search(r"['\"\\]", line):
        try:
            words = shlex.split(line)
        except ValueError as error:
            return f"quotes do not match ({error})"
    else:
        words = _WORD.findall(line)
    if len(words) == 1 and "://" in words[0]:
        return words
    verbs = next((each for each in COMMANDS if words[: len(each)] == each), None)
    if verbs is None:
        verb = " ".join(words[:1])
        return f"verb {verb!r} is not cp or sync, and is not obeyed"
    rest = iter(words[len(verbs) :])
    paths = []
    for word in rest:
        if word in VALUE_FLAGS:
            next(rest, None)
        elif not word.startswith("-"):
            paths.append(word)
    return paths


def _of_names(rows: list[tuple[int, dict[str, str]]]) -> pa.Table:
    """Give rows of names as a table; a name that a row lacks is null."""
    import pyarrow as pa

    columns: dict[str, Any] = {"line": integers([line for line, _ in rows])}
    names = dict.fromkeys(name for _, named in rows for name in named)
    for name in names:
        cells = [named.get(name) for _, named in rows]
        if name in UUID_NAMES or name == "uuid":
            columns[name] = packed(
                [uuid_bytes(cell) if cell else None for cell in cells]
            )
        else:
            columns[name] = texts(cells)
    return pa.table(columns)
