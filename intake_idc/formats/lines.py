"""Manifests of one thing a line: s5cmd commands, URLs, DRS identifiers, bare names.

The grammar of commands is that of ``s5cmd run`` (version 2): a line is stripped, empty
lines and lines that begin with ``#`` are passed over, the rest is split as a POSIX
shell splits words. Of its verbs only ``cp`` and ``sync`` from a bucket are taken; a
bare URL is taken too, as IDC's API writes them, and so are the names that
`intake_idc.formats.places.place` knows. No destination is used.

Lines of a million series are mostly alike but for the uuid. So the first line of a form
is read word by word, and those of the same form are then compared with it all at once.
"""

from __future__ import annotations

import re
import shlex
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from intake_idc.arrow import binary, integers, packed, texts, uuids_at, words
from intake_idc.formats import UUID_NAMES, Listing, Problem
from intake_idc.formats.places import BUCKETS, LONGEST_UID, UID, UUID, place, uuid_bytes
from intake_idc.formats.source import line_texts, utf8, whole_lines

if TYPE_CHECKING:
    from collections.abc import Iterator

    import numpy as np
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
_RELEASES = re.compile(r"IDC Data Version\(s\): (.*)")
_RECORDS = re.compile(r"Total records found: (\d+)")
_RELEASE = re.compile(r"Version (\d+)(?:\.\d+)?\b")
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
_ASIDE = re.compile(r"(?:set|export|mkdir|cd)\s(?!.*://).*")
"""Lines of a shell script that name nothing."""
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
FORMS = 32
"""Forms of lines that are looked for; lines of any other are read word by word."""


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
    for number, text in enumerate(given, 1):
        reader.take(number, text.strip())
    reader.gather()

    def reread(wanted: Any) -> dict[int, str]:
        return {line: given[line - 1][:200] for line in wanted}

    return replace(reader.listing(None), reread=reread)


class _Form(NamedTuple):
    """A line as bytes, but for its uuids."""

    fixed: list[tuple[int, str, int]]
    """The rest as numbers of 8, 4, 2 or 1 bytes: where each lies, its kind, itself."""
    named: list[tuple[str, int]]
    """Names of the uuids, and where they begin."""
    length: int


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
        self._forms: list[_Form] = []
        # Rows of the block at hand that were read word by word.
        self._named: list[tuple[int, dict[str, str]]] = []
        self._gathered: list[pa.Table] = []

    # Whole blocks.

    def feed(self, block: bytes) -> None:
        """Read some whole lines."""
        import numpy as np

        letters = np.frombuffer(block, np.uint8)
        ends = np.flatnonzero(letters == ord("\n"))
        starts = np.concatenate([[0], ends[:-1] + 1])
        lengths = ends - starts
        lengths -= (lengths > 0) & (letters[ends - 1] == ord("\r"))
        left = lengths > 0
        alike: list[tuple[_Form, Any, dict[str, Any]]] = []
        tried = 0
        while True:
            for form in self._forms[tried:]:
                found, uuids = _matches(form, letters, starts, lengths, left)
                if len(found):
                    left[found] = False
                    self._counted += len(found)
                    alike.append((form, found + self._lines + 1, uuids))
            tried = len(self._forms)
            grown = False
            for at in np.flatnonzero(left).tolist():
                line = block[starts[at] : starts[at] + lengths[at]]
                left[at] = False
                if self._line(self._lines + 1 + at, line):
                    # It is read once more, with those that are like it.
                    left[at] = grown = True
                    break
            if not grown:
                break
        self._lines += len(ends)
        self.gather(alike)

    def _line(self, number: int, line: bytes) -> bool:
        """Read one line; say whether it was of a form that others may have."""
        try:
            text = line.decode()
        except UnicodeDecodeError:
            shown = line.decode("utf-8", "replace")
            self._reject(number, shown.strip(), "is not text in UTF-8")
            self._counted += 1
            return False
        names = self.take(number, text.strip())
        if names is None or len(self._forms) >= FORMS or "bucket" in names:
            return False
        form = _form(line, names)
        if form is None:
            return False
        self._forms.append(form)
        self._named.pop()
        self._counted -= 1
        return True

    def gather(self, alike: list[tuple[_Form, Any, dict[str, Any]]] = ()) -> None:  # type: ignore[assignment]
        """Put the rows of a block together, in the order of their lines."""
        tables = _alike([(numbers, uuids) for _, numbers, uuids in alike])
        if self._named:
            tables.append(_of_names(self._named))
            self._named = []
        if not tables:
            return
        import pyarrow as pa

        table = tables[0]
        if len(tables) > 1:
            table = pa.concat_tables(tables, promote_options="default")
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
        if line in HEADER_CELLS or _ASIDE.fullmatch(line):
            return None
        self._counted += 1
        if len(line) > LONGEST_LINE:
            self._reject(number, line, f"longer than {LONGEST_LINE} characters")
            return None
        if "\0" in line:
            self._reject(number, line, "holds NUL characters, so it is not text")
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
        try:
            words = shlex.split(line)
        except ValueError as error:
            self._reject(number, line, f"quotes do not match ({error})")
            return None
        if len(words) == 1 and "://" in words[0]:
            return words[0]
        verbs = next((each for each in COMMANDS if words[: len(each)] == each), None)
        if verbs is None:
            verb = " ".join(words[:1])
            reason = f"verb {verb!r} is not cp or sync, and is not obeyed"
            self._reject(number, line, reason)
            return None
        rest = iter(words[len(verbs) :])
        paths = []
        for word in rest:
            if word in VALUE_FLAGS:
                next(rest, None)
            elif not word.startswith("-"):
                paths.append(word)
        if len(paths) not in (1, 2):
            self._reject(number, line, "expected one source and one destination")
            return None
        return paths[0]

    def _comment(self, number: int, line: str) -> None:
        """Take the releases and the announced number of records out of a comment."""
        named = _RELEASES.search(line)
        if named:
            self.idc_versions.extend(map(int, _RELEASE.findall(named[1])))
        records = _RECORDS.search(line)
        if records:
            self._announced = number, line, int(records[1])

    def _setting(self, number: int, line: str) -> None:
        if line == TCIA_LIST:
            self._in_settings = False
        elif not _SETTING.fullmatch(line):
            self._reject(number, line, f"stands above {TCIA_LIST} and is no setting")

    def _reject(self, number: int, line: str, reason: str) -> None:
        self.problems.append(Problem(number, line[:200], reason))


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


def _form(line: bytes, names: dict[str, str]) -> _Form | None:
    """Give the form of a line whose names are uuids, each of them in it once."""
    if not set(names) <= {*UUID_NAMES, "uuid"}:
        return None
    lowered = line.lower()
    named = []
    for name, uuid in names.items():
        if lowered.count(uuid.encode()) != 1:
            return None
        named.append((name, lowered.index(uuid.encode())))
    named.sort(key=lambda each: each[1])
    fixed: list[tuple[int, str, int]] = []
    at = 0
    for _, start in [*named, ("", len(line))]:
        fixed += _as_numbers(line, at, start)
        at = start + 36
    return _Form(fixed, named, len(line))


def _as_numbers(line: bytes, start: int, end: int) -> Iterator[tuple[int, str, int]]:
    """Give a piece of a line as numbers, the fewest that there can be."""
    while start < end:
        width = next(width for width in (8, 4, 2, 1) if width <= end - start)
        yield start, f"<u{width}", int.from_bytes(line[start : start + width], "little")
        start += width


def _matches(
    form: _Form,
    letters: np.ndarray[Any, Any],
    starts: np.ndarray[Any, Any],
    lengths: np.ndarray[Any, Any],
    left: np.ndarray[Any, Any],
) -> tuple[np.ndarray[Any, Any], dict[str, np.ndarray[Any, Any]]]:
    """Give the lines of a form, by position, and the uuids in them."""
    import numpy as np

    found = np.flatnonzero(left & (lengths == form.length))
    if not len(found):
        return found, {}
    at = starts[found]
    good = np.ones(len(found), bool)
    for start, kind, word in form.fixed:
        good &= words(letters, at + start, kind) == word
    uuids = {}
    for name, start in form.named:
        uuids[name], valid = uuids_at(letters, at + start)
        good &= valid
    if good.all():
        return found, uuids
    return found[good], {name: rows[good] for name, rows in uuids.items()}


def _alike(found: list[tuple[Any, dict[str, Any]]]) -> list[pa.Table]:
    """Give the rows of each form as a table; forms with the same names as one."""
    import numpy as np
    import pyarrow as pa

    groups: dict[tuple[str, ...], list[tuple[Any, dict[str, Any]]]] = {}
    for each in found:
        groups.setdefault(tuple(each[1]), []).append(each)
    tables = []
    for names, of in groups.items():
        numbers = np.concatenate([each[0] for each in of], dtype=np.int64)
        rows = {name: np.concatenate([each[1][name] for each in of]) for name in names}
        if len(of) > 1:
            order = np.argsort(numbers)
            numbers = numbers[order]
            rows = {name: values[order] for name, values in rows.items()}
        line = pa.Array.from_buffers(
            pa.int64(), len(numbers), [None, pa.py_buffer(numbers)]
        )
        columns = {name: binary(values) for name, values in rows.items()}
        tables.append(pa.table({"line": line, **columns}))
    return tables


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
