"""Tables as JSON: one object a line, arrays, and the answers of APIs.

Numbers are kept as they are written, so that an identifier ``007.10`` of no quotes is
not rounded. Rows of one file may have different keys: those with the same are taken
together.
"""

from __future__ import annotations

import json
from functools import partial
from typing import TYPE_CHECKING, Any

from intake_idc.arrow import is_text, texts
from intake_idc.errors import ManifestError
from intake_idc.formats import Listing, Problem
from intake_idc.formats.columns import WOULD_DO, Column, Role, known, named
from intake_idc.formats.encodings import plain_text
from intake_idc.formats.gathering import Gatherer, assembled, cut
from intake_idc.formats.records import is_utf8
from intake_idc.formats.source import line_texts, utf8, whole_lines

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from intake_idc.formats.source import Bytes

__all__ = ["read", "read_lines"]

LARGEST = 256 << 20
"""Bytes of a document that is read whole: an answer of an API."""
LONGEST_ROW = 1 << 20
"""Bytes of one row."""
TOGETHER = 20_000
"""Rows that are taken together."""
MOST_FORMS = 200
"""Different sets of keys in one file."""

_ROWS = ("manifest_data", "json_manifest", "series", "rows", "data", "urls")
"""Where answers hold their rows, of the API's versions 1 to 3 and of pandas."""
_BLANKS = " \t\r\n"
_AFTER_NUMBERS = {*_BLANKS, ",", "]"}

_decoder = json.JSONDecoder(parse_int=str, parse_float=str, parse_constant=str)


def read_lines(source: Bytes) -> Listing:
    """Read one JSON object a line; blank lines and ``#`` comments are passed over.

    Raises
    ------
    ManifestError
        No key names anything.
    StorageError
        It cannot be read.
    """
    source = plain_text(source)
    rows = _Rows(source.name)
    number = 0
    for block in whole_lines(utf8(source.blocks())):
        if rows.take_block(number + 1, block):
            number += block.count(b"\n")
            continue
        for line in block.split(b"\n")[:-1]:
            number += 1
            stripped = line.strip()
            if not stripped or stripped.startswith(b"#"):
                continue
            shown = partial(_shown, line)
            if len(line) > LONGEST_ROW:
                rows.reject(number, shown(), f"longer than {LONGEST_ROW:,} bytes")
                continue
            try:
                value = _decoder.decode(stripped.decode())
            except (ValueError, RecursionError) as error:
                rows.reject(number, shown(), f"is no JSON ({_why(error)})")
                continue
            rows.take(number, value, shown)
    return rows.listing("ndjson", reread=partial(line_texts, source))


def read(source: Bytes) -> Listing:
    """Read a JSON document: an array of rows, or an answer of an API.

    Rows are numbered from 1, as they come, wherever they stand in the text.

    Raises
    ------
    ManifestError
        It is no JSON, holds no rows, or no key of them names anything.
    StorageError
        It cannot be read.
    """
    source = plain_text(source)
    rows = _Rows(source.name)
    if not source.head.lstrip(b"\xef\xbb\xbf \t\r\n").startswith(b"["):
        document = _document(source)
        if isinstance(document, list):
            found: Any = document
        else:
            found = _rows_of(document, rows, source.name)
        for number, row in enumerate(found, 1):
            rows.take(number, row, partial(_dumped, row))
    else:
        for number, row in enumerate(_elements(source), 1):
            rows.take(number, row, partial(_dumped, row))
    return rows.listing("json", reread=None)


def _document(source: Bytes) -> Any:
    text = b"".join(utf8(iter([source.read(LARGEST)])))
    try:
        return _decoder.decode(text.decode().strip())
    except (ValueError, RecursionError) as error:
        msg = f"{source.name} is no JSON document ({_why(error)})"
        raise ManifestError(msg, name=source.name) from error


def _elements(source: Bytes) -> Iterator[Any]:
    """Give the elements of an array, one after another, without holding its text.

    Raises
    ------
    ManifestError
        It is no array, or ends before its end.
    """
    import codecs

    decoder = codecs.getincrementaldecoder("utf-8")("surrogateescape")
    array = _Array(source.name)
    for block in utf8(source.blocks()):
        yield from array.feed(decoder.decode(block), final=False)
    yield from array.feed(decoder.decode(b"", final=True), final=True)


class _Array:
    """An array of JSON that comes in pieces."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._text = ""
        self._count = 0
        self._expected = "["
        """What comes next: ``[``, ``value]``, ``value``, ``,]``, or nothing."""

    def _fail(self, why: str) -> ManifestError:
        msg = f"{self._name} is no JSON array: {why}, after {self._count:,} elements"
        return ManifestError(msg, name=self._name)

    def feed(self, text: str, *, final: bool) -> Iterator[Any]:
        """Give the elements that are whole."""
        self._text = text = self._text + text
        at = _past_blanks(text, 0)
        if self._expected == "value" and not final:
            found, at = _many(text, at)
            self._count += len(found)
            if found:
                self._expected = ",]"
                yield from found
        while at < len(text):
            letter = text[at]
            if letter in "[]," and letter in self._expected:
                self._expected = {"[": "value]", "]": "", ",": "value"}[letter]
                at = _past_blanks(text, at + 1)
                continue
            if not self._expected.startswith("value"):
                raise self._fail(
                    f"expected {self._expected or 'no more'}, got {letter}"
                )
            try:
                value, end = _decoder.raw_decode(text, at)
            except (ValueError, RecursionError) as error:
                if final or len(text) - at > LONGEST_ROW:
                    raise self._fail(_why(error)) from error
                break
            ended = letter in '{["' or text[end : end + 1] in _AFTER_NUMBERS
            if not final and not ended and end - at <= LONGEST_ROW:
                break  # A number may go on.
            self._count += 1
            self._expected = ",]"
            yield value
            at = _past_blanks(text, end)
        self._text = text[at:]
        if final and self._expected:
            raise self._fail("it ends too early")


def _many(text: str, at: int) -> tuple[list[Any], int]:
    """Give the objects of an array that are plainly whole, and where they end.

    What stands before the comma behind an object is a list of elements, or it is no
    JSON: then the comma is one within an element, and they are read one by one.
    """
    end = text.rfind("},", at) + 1
    if not end:
        return [], at
    try:
        found = _decoder.decode(f"[{text[at:end]}]")
    except (ValueError, RecursionError):
        return [], at
    return found, end


def _past_blanks(text: str, at: int) -> int:
    while at < len(text) and text[at] in _BLANKS:
        at += 1
    return at


class _Rows:
    """Rows of JSON, by the keys that they have."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.problems: list[Problem] = []
        self.idc_versions: list[int] = []
        self._columns: dict[tuple[str, ...], list[tuple[str, Column]]] = {}
        self._forms: dict[tuple[tuple[Role, str], ...], tuple[Gatherer, list[Any]]] = {}
        self._ready: dict[tuple[str, ...], tuple[list[str], list[Any]]] = {}
        self._unnamed: list[tuple[int, str]] = []
        self._held = 0

    def remark(self, text: str, reason: str) -> None:
        """Say something of the document as a whole."""
        self.problems.append(Problem(1, cut(text), reason, rejected=False))

    def reject(self, number: int, text: str, reason: str) -> None:
        """Account for a row that is not taken."""
        self.problems.append(Problem(number, cut(text), reason))

    def take(self, number: int, row: Any, shown: Any) -> None:
        """Take a row: an object, or a text that names something itself."""
        if isinstance(row, str):
            row = {"url": row} if row else {}
        if not isinstance(row, dict):
            self.reject(number, shown(), "is no JSON object with columns as keys")
            return
        ready = self._ready_for(tuple(row))
        if ready is None:
            if row:
                self._unnamed.append((number, ", ".join(map(str, row))[:200]))
            self.reject(number, shown(), "no key names a thing of IDC")
            return
        keys, held = ready
        cells = [row[key] for key in keys]
        if {*map(type, cells)} != {str}:
            cells = [*map(_cell, cells)]
        if not is_text("".join(filter(None, cells))):
            self.reject(number, shown(), "holds half a character, so it is no text")
            return
        held.append((number, cells, shown))
        self._held += 1
        if self._held >= TOGETHER:
            self.flush()

    def take_block(self, number: int, block: bytes) -> bool:
        """Take lines that are plainly alike by Arrow; else say so and do nothing."""
        import numpy as np
        import pyarrow as pa
        from pyarrow import json as arrow_json

        keys = _texts_of(block[: block.index(b"\n")])
        columns = self._of_keys(keys)
        count = block.count(b"\n")
        # Arrow's parser dies of deep nesting: each line is one flat object, or it is
        # not for Arrow.
        openings = block.count(b"\n{") + block.startswith(b"{")
        flat = openings == block.count(b"{") == count and b"[" not in block
        if not named([column for _, column in columns]) or not flat:
            return False
        if not is_utf8(block):
            return False
        schema = pa.schema([(key, pa.string()) for key, _ in columns])
        try:
            table = arrow_json.read_json(
                pa.BufferReader(block),
                parse_options=arrow_json.ParseOptions(explicit_schema=schema),
            )
        except (pa.ArrowException, ValueError):
            return False
        # A key that names something and is not in the first line, or not in all.
        found = {column.header for column in known(table.column_names)}
        alike = found == {column.header for _, column in columns} and all(
            table[key].null_count == 0 for key, _ in columns
        )
        if not alike or table.num_rows != count:
            return False
        self.flush()
        gatherer, _ = self._form(columns)
        start = 0
        for batch in table.select([key for key, _ in columns]).to_batches():
            lines = np.arange(batch.num_rows, dtype=np.int64) + (number + start)
            gatherer.add(batch.columns, lines, partial(_line_of, block, start))
            start += batch.num_rows
        return True

    def _ready_for(self, keys: tuple[str, ...]) -> tuple[list[str], list[Any]] | None:
        """Give the keys that name something, and where such rows are held."""
        if keys in self._ready:
            return self._ready[keys]
        columns = self._of_keys(keys)
        if not named([column for _, column in columns]):
            return None
        ready = [key for key, _ in columns], self._form(columns)[1]
        if len(self._ready) < MOST_FORMS:
            self._ready[keys] = ready
        return ready

    def _of_keys(self, keys: tuple[str, ...]) -> list[tuple[str, Column]]:
        found = self._columns.get(keys)
        if found is None:
            found = [(keys[column.at], column) for column in known(keys)]
            if len(self._columns) < MOST_FORMS:
                self._columns[keys] = found
        return found

    def _form(
        self, columns: list[tuple[str, Column]]
    ) -> tuple[Gatherer, list[tuple[int, list[str | None], Callable[[], str]]]]:
        """Give what takes rows with these columns."""
        form = tuple((column.role, column.header) for _, column in columns)
        if form not in self._forms:
            if len(self._forms) >= MOST_FORMS:
                msg = f"{self.name}: rows have more than {MOST_FORMS} sets of keys"
                raise ManifestError(msg, name=self.name)
            self._forms[form] = Gatherer([column for _, column in columns]), []
        return self._forms[form]

    def flush(self) -> None:
        """Take the rows that are held."""
        import numpy as np

        for gatherer, rows in self._forms.values():
            held = rows[:]
            rows.clear()
            gatherer.add(
                [
                    texts([cells[index] for _, cells, _ in held])
                    for index in range(len(gatherer.columns))
                ],
                np.array([number for number, _, _ in held], np.int64),
                lambda at, held=held: held[at][2](),  # type: ignore[misc]
            )
        self._held = 0

    def listing(self, kind: str, reread: Any) -> Listing:
        """Give all that was taken.

        Raises
        ------
        ManifestError
            There are rows, and none has a key that names anything.
        """
        self.flush()
        if self._unnamed and not self._forms:
            got = self._unnamed[0][1]
            msg = (
                f"{self.name}: no key names a thing of IDC; got {got}; what would do: "
                f"{WOULD_DO}"
            )
            raise ManifestError(msg, name=self.name)
        names, problems = assembled([gatherer for gatherer, _ in self._forms.values()])
        problems = sorted([*problems, *self.problems], key=lambda each: each.line)
        releases = tuple(dict.fromkeys(self.idc_versions))
        return Listing(kind, names, problems, releases, reread)


def _line_of(block: bytes, start: int, at: int) -> str:
    return _shown(block.split(b"\n", start + at + 1)[start + at])


def _texts_of(line: bytes) -> tuple[str, ...]:
    """Give the keys of an object whose naming values are texts; else none."""
    try:
        row = json.loads(line)
    except (ValueError, RecursionError):
        return ()
    if not isinstance(row, dict):
        return ()
    keys = tuple(row)
    plainly = all(isinstance(row[keys[each.at]], str) for each in known(keys))
    return keys if plainly else ()


def _cell(value: Any) -> str | None:
    if value is None or isinstance(value, str):
        return value
    if isinstance(value, list):
        # Of one value it is that; of several what IndexD would write.
        parts = [_cell(part) or "" for part in value[:100]]
        return parts[0] if len(parts) == 1 else f"[{', '.join(parts)}]" if parts else ""
    return _dumped(value)


def _shown(line: bytes) -> str:
    return line[:800].decode("utf-8", "replace")


def _dumped(row: Any) -> str:
    try:
        return json.dumps(row)[:800]
    except (ValueError, RecursionError):
        return "..."


def _why(error: BaseException) -> str:
    if isinstance(error, RecursionError):
        return "it is nested too deeply"
    return str(error)[:120]


# Answers of APIs.


def _rows_of(document: Any, rows: _Rows, name: str) -> Sequence[Any]:
    """Give the rows in a document, and take note of what it says about them."""
    if not isinstance(document, dict):
        msg = f"{name} holds {type(document).__name__}, not rows; expected an array"
        raise ManifestError(msg, name=name)
    manifest = document.get("manifest")
    inner = manifest if isinstance(manifest, dict) else {}
    _note_releases(document, rows)
    found = _listed(inner) or _listed(document)
    if found is None and isinstance(manifest, list):
        found = manifest
    if found is None:
        found = _from_columns(document)
    if found is None:
        raise _without_rows(document, name)
    _note_pages(document, inner, found, rows)
    return found


def _listed(holder: Mapping[str, Any]) -> list[Any] | None:
    for key in _ROWS:
        value = holder.get(key)
        if isinstance(value, list):
            return _as_objects(value, holder.get("columns"))
    methods = holder.get("accessMethods")
    if isinstance(methods, dict) and isinstance(methods.get("urls"), list):
        return list(methods["urls"])
    return None


def _as_objects(rows: list[Any], columns: Any) -> list[Any]:
    """Give rows that are lists of cells as objects."""
    if not isinstance(columns, list):
        return rows
    keys = [
        each.get("name", "") if isinstance(each, dict) else each for each in columns
    ]
    return [
        dict(zip(map(str, keys), row, strict=False)) if isinstance(row, list) else row
        for row in rows
    ]


def _from_columns(document: dict[str, Any]) -> list[Any] | None:
    """Give rows of a document that is one row, or columns, as pandas writes frames."""
    columns = known(list(document))
    if not named(columns):
        return None
    values = list(document.values())
    if all(isinstance(value, dict) for value in values):
        values = [list(value.values()) for value in values]
    if values and all(isinstance(value, list) for value in values):
        longest = max(map(len, values))
        return [
            {
                key: value[index] if index < len(value) else None
                for key, value in zip(document, values, strict=True)
            }
            for index in range(longest)
        ]
    return [document]


def _note_releases(document: Mapping[str, Any], rows: _Rows) -> None:
    from intake_idc.formats.columns import release_numbers

    cohort = document.get("cohort_def", document.get("cohort"))
    cohort = cohort if isinstance(cohort, dict) else {}
    filters = cohort.get("filterSet")
    filters = filters if isinstance(filters, dict) else {}
    for holder in (filters, cohort, document):
        for key in ("idc_data_version", "idc_version"):
            value = holder.get(key)
            if isinstance(value, str):
                rows.idc_versions.extend(release_numbers(value) or [])


def _note_pages(
    document: Mapping[str, Any],
    inner: Mapping[str, Any],
    found: Sequence[Any],
    rows: _Rows,
) -> None:
    """Say so where the rows are not all that the answer counts."""
    if document.get("next_page"):
        total = inner.get("totalFound")
        of = f" of {total}" if total else ""
        reason = f"the answer holds {len(found):,} rows{of}; more pages follow it"
        rows.remark(f"next_page: {str(document['next_page'])[:100]}", reason)
        return
    for holder, key in (
        (document, "total_series"),
        (inner, "totalFound"),
        (document, "totalFound"),
    ):
        total = str(holder.get(key, ""))
        if total.isdecimal() and len(total) < 16 and int(total) > len(found):  # noqa: PLR2004
            reason = f"the answer holds {len(found):,} rows of {int(total):,}"
            rows.remark(f"{key}: {total}", f"{reason}; more pages follow it")
            return
    if document.get("truncated") is True:
        reason = f"the answer was cut off after {len(found):,} rows"
        rows.remark("truncated: true", reason)


def _without_rows(document: dict[str, Any], name: str) -> ManifestError:
    """Say what a document is that holds no rows."""
    got = ", ".join(map(str, document))[:200] or "nothing"
    cohort = document.get("cohort_def", document.get("cohort"))
    filters = "filters" in document or {"terms", "ranges"} & set(document)
    error = document.get("error")
    message = error.get("message") if isinstance(error, dict) else error
    message = message or document.get("message")
    if isinstance(cohort, dict) or filters:
        msg = (
            f"{name} is a cohort's filters, not a manifest: there are no rows in it; "
            "open it with open_cohort"
        )
        if "counts" in document and "total_series" in document:
            msg = f"{name} is an answer without rows; ask again with include_rows true"
    elif isinstance(message, str):
        msg = f"{name} is an answer of an API without rows: {message[:200]}"
    elif "total_series" in document or "counts" in document:
        msg = f"{name} is an answer without rows; ask again with include_rows true"
    else:
        msg = f"{name} holds no rows; got the keys {got}; what would do: {WOULD_DO}"
    return ManifestError(msg, name=name)
