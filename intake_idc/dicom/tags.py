"""Values of a header by name, with types that are known before anything is read.

A tag is named by its keyword (PS3.6), or by a path of keywords through sequences. Its
type follows from value representation and multiplicity in the dictionary, never from
what an object holds: a column over a million objects has one type.
"""

from __future__ import annotations

import io
import re
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

from pydicom.datadict import (
    dictionary_VM,
    dictionary_VR,
    keyword_dict,
    keyword_for_tag,
    tag_for_keyword,
)
from pydicom.filereader import read_partial
from pydicom.multival import MultiValue
from pydicom.sequence import Sequence as DicomSequence

from intake_idc.arrow import is_text
from intake_idc.dicom.elements import Marked, walk
from intake_idc.dicom.reading import PYDICOM_RAISES, entered, finished, unreadable
from intake_idc.errors import DicomReadError, RequestError, nearest

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    import pyarrow as pa
    from pydicom import Dataset

__all__ = ["Tag", "read_values", "resolve_tags", "values_of"]

FILE_META_GROUP = 0x0002
CHARACTER_SET = 0x00080005
"""Specific Character Set: how all texts are encoded (PS3.3 C.12.1.1.2)."""
PIXEL_REPRESENTATION = 0x00280103
"""Whether numbers that may be either have a sign (PS3.5 A)."""

INTEGERS = {
    "IS": (-(2**63), 2**63 - 1),
    "SL": (-(2**31), 2**31 - 1),
    "SS": (-(2**15), 2**15 - 1),
    "SV": (-(2**63), 2**63 - 1),
    "UL": (0, 2**32 - 1),
    "US": (0, 2**16 - 1),
    "US or SS": (-(2**15), 2**16 - 1),
    "UV": (0, 2**63 - 1),
}
"""Value representations of whole numbers (PS3.5 6.2), and what they may hold."""
HALF = frozenset({"SL", "SS", "US", "US or SS"})
"""Those that fit into 32 bits."""
REALS = frozenset({"DS", "FD", "FL"})
TEXTS = frozenset(
    "AE AS AT CS DA DT LO LT PN SH ST TM UC UI UR UT".split()  # noqa: SIM905
)
STEP = re.compile(r"(?P<keyword>[^\[\].]+)(?:\[(?P<item>\d{1,9}|\*)\])?")
EVERY = -1
"""Stands for all items of a sequence."""


@dataclass(frozen=True)
class Tag:
    """An element of a header, perhaps inside of sequences, and its type."""

    name: str
    """As it was asked for, which is the name of its column."""
    path: tuple[tuple[int, int], ...]
    """Sequences on the way: the tag of each, and which item, from 0, or `EVERY`."""
    tag: int
    """The element."""
    vr: str
    """Its value representation in the dictionary (PS3.6)."""
    many: bool
    """Whether it may have several values: its multiplicity in the dictionary is not
    1."""

    @property
    def top(self) -> int:
        """The element of the dataset that it is in."""
        return self.path[0][0] if self.path else self.tag

    @property
    def in_file_meta(self) -> bool:
        """Whether it is of the File Meta Information (PS3.10 7.1)."""
        return self.top >> 16 == FILE_META_GROUP

    @property
    def every(self) -> bool:
        """Whether it is asked for in every item of a sequence."""
        return any(item == EVERY for _, item in self.path)

    @cached_property
    def type(self) -> pa.DataType:
        """Arrow type of its column.

        int32 or int64, float64 or string; a list of those where it may have several
        values, or is asked for in every item; a list of lists where both hold.
        """
        import pyarrow as pa

        if self.vr in INTEGERS:
            kind = pa.int32() if self.vr in HALF else pa.int64()
        else:
            kind = pa.float64() if self.vr in REALS else pa.string()
        for _ in range(self.many + self.every):
            kind = pa.list_(kind)
        return kind


def resolve_tags(names: str | Sequence[str]) -> tuple[Tag, ...]:
    """Find elements by name.

    Parameters
    ----------
    names : str or sequence of str
        DICOM keywords, of the dataset or of the File Meta Information, such as
        ``"Rows"``; or paths through sequences, such as
        ``"SharedFunctionalGroupsSequence[0].PixelMeasuresSequence[0].SliceThickness"``.
        Without a number the first item is meant; ``[*]``, once in a path, means every
        item.

    Raises
    ------
    RequestError
        A name is not in the dictionary, which the message then gives the nearest of;
        is a sequence or bulk data; goes through what is no sequence; or is there
        twice.
    """
    given: object = names
    several = isinstance(given, Iterable) and not isinstance(given, str | bytes)
    asked: list[Any] = list(names) if several else [names]
    if not asked:
        msg = "no tag was asked for; give DICOM keywords such as 'Rows'"
        raise RequestError(msg)
    found = tuple(_resolve(name) for name in asked)
    if len(set(asked)) < len(asked):
        twice = next(name for name in asked if asked.count(name) > 1)
        msg = f"{twice!r} is asked for twice; a column has one name"
        raise RequestError(msg, keyword=twice)
    return found


def _resolve(name: object) -> Tag:
    if not isinstance(name, str):
        msg = f"a tag is named by its DICOM keyword, such as 'Rows'; got {name!r}"
        raise RequestError(msg, keyword=name)
    *through, last = (_step(name, step) for step in name.split("."))
    for (tag, _item), above in zip([*through, last], [None, *through], strict=True):
        if above is not None and dictionary_VR(above[0]) != "SQ":
            msg = (
                f"{name!r}: {keyword_for_tag(above[0])} is no sequence, so that "
                f"{keyword_for_tag(tag)} cannot be in it"
            )
            raise RequestError(msg, keyword=name)
    tag, item = last
    vr = dictionary_VR(tag)
    if vr == "SQ":
        msg = (
            f"{name!r} is a sequence, which is no value; ask for what is in it, such "
            f"as '{name}[0].CodeValue', or read the header"
        )
        raise RequestError(msg, keyword=name)
    if vr not in TEXTS and vr not in REALS and vr not in INTEGERS:
        msg = f"{name!r} is bulk data ({vr}), which is no value; read the dataset"
        raise RequestError(msg, keyword=name)
    if item is not None:
        msg = f"{name!r}: {keyword_for_tag(tag)} is no sequence and has no items"
        raise RequestError(msg, keyword=name)
    path = tuple((above, 0 if which is None else which) for above, which in through)
    if sum(which == EVERY for _, which in path) > 1:
        msg = f"{name!r}: every item, [*], can be asked for of one sequence only"
        raise RequestError(msg, keyword=name)
    return Tag(name, path, tag, vr, dictionary_VM(tag) != "1")


def _step(name: str, step: str) -> tuple[int, int | None]:
    """Read one keyword of a path, with which item of it is meant."""
    match = STEP.fullmatch(step)
    if match is None:
        msg = (
            f"{name!r} is no path of DICOM keywords; expected such as "
            "'PixelMeasuresSequence[0].SliceThickness'"
        )
        raise RequestError(msg, keyword=name)
    keyword, item = match["keyword"], match["item"]
    tag = tag_for_keyword(keyword)
    if tag is None:
        msg = f"{keyword!r} is no DICOM keyword{nearest(keyword, keyword_dict)}"
        raise RequestError(msg, keyword=name)
    if item is None:
        return int(tag), None
    return int(tag), EVERY if item == "*" else int(item)


def read_values(
    read: Callable[[int, int], bytes], size: int, tags: Sequence[Tag], url: str = ""
) -> dict[str, Any]:
    """Read some values of an object, in as few bytes as they take.

    The first 16 KiB are read, and more only where a tag is not in them. Elements that
    nobody asked for are stepped over; behind the last that is wanted nothing is read.
    Their order is held to be that of the standard (PS3.5 7.1), and a value counts only
    where it is whole.

    Parameters
    ----------
    read : callable
        ``read(start, stop)`` gives the bytes of that range.
    size : int
        Bytes of the whole object.
    tags : sequence of Tag
        What is asked for; see `resolve_tags`.
    url : str
        Where it lies, for the error.

    Returns
    -------
    dict
        A value for each name, as its Arrow type takes it; None where the element is
        missing or empty.

    Raises
    ------
    DicomReadError
        It is not DICOM, is cut short or malformed; more than 64 MiB are on the way; or
        a value is not what the dictionary says.
    """
    tops = {tag.top for tag in tags if not tag.in_file_meta}
    window, syntax, start, deflated = entered(Marked(read, size, url))
    parts = [window.take(0, start)]
    if tops:
        if any(tag.vr == "US or SS" for tag in tags):
            tops.add(PIXEL_REPRESENTATION)
        last = max(tops)
        tops.add(CHARACTER_SET)
        window.mark = None
        parts += walk(window, start, syntax, lambda tag: tag > last, tops)[0]
    file = io.BytesIO(b"".join(parts))
    try:
        dataset = finished(read_partial(file), deflated=deflated)
    except PYDICOM_RAISES as error:
        raise unreadable(error, url, file.tell()) from error
    return values_of(dataset, tags, url)


def values_of(dataset: Dataset, tags: Sequence[Tag], url: str = "") -> dict[str, Any]:
    """Give some values of a dataset that was read.

    Returns and raises what `read_values` does.
    """
    return {tag.name: _checked(dataset, tag, url) for tag in tags}


def _checked(dataset: Dataset, tag: Tag, url: str) -> Any:
    try:
        return _found(dataset, tag)
    except PYDICOM_RAISES as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        msg = f"{url}: malformed: {tag.name} is not what its type takes ({reason})"
        raise DicomReadError(msg, kind="malformed", url=url) from error


def _found(dataset: Dataset, tag: Tag) -> Any:
    items: list[Dataset | None] = [dataset.file_meta if tag.in_file_meta else dataset]
    for above, which in tag.path:
        held = [_items(item, above) for item in items]
        if which == EVERY:
            items = [inner for found in held for inner in found]
        else:
            items = [found[which] if which < len(found) else None for found in held]
    values = [_value(item, tag) for item in items]
    if tag.every:
        return values or None
    return values[0]


def _items(item: Dataset | None, sequence: int) -> Sequence[Dataset]:
    if item is None or sequence not in item:
        return ()
    held = item[sequence].value
    if held and not isinstance(held, DicomSequence):
        msg = f"{keyword_for_tag(sequence)} is no sequence here"
        raise TypeError(msg)
    return held or ()


def _value(item: Dataset | None, tag: Tag) -> Any:
    if item is None or tag.tag not in item:
        return None
    held = item[tag.tag].value
    values = list(held) if isinstance(held, MultiValue | list | tuple) else [held]
    plain = [_plain(value, tag.vr) for value in values]
    if all(value is None for value in plain):
        return None
    if tag.many:
        return plain
    if len(plain) == 1:
        return plain[0]
    if tag.vr in TEXTS:
        # A backslash divides values, and was meant as a character.
        return "\\".join("" if value is None else str(value) for value in plain)
    msg = f"{len(plain)} values where there is one"
    raise ValueError(msg)


def _plain(value: Any, vr: str) -> int | float | str | None:
    """Give a value as Python's own type, held to be what the dictionary says."""
    if value is None or value == "":
        return None
    if isinstance(value, bytes | DicomSequence):
        msg = f"{type(value).__name__} where a value of {vr} is due"
        raise TypeError(msg)
    if vr in INTEGERS:
        return _whole(value, *INTEGERS[vr])
    if vr in REALS:
        return float(value)
    text = f"{value:08X}" if vr == "AT" and isinstance(value, int) else str(value)
    if not is_text(text):
        msg = "bytes that are no text in its character set"
        raise ValueError(msg)
    return text


def _whole(value: Any, least: int, most: int) -> int:
    number = int(value)
    if isinstance(value, float) and number != value:
        msg = f"{value!r} is no whole number"
        raise ValueError(msg)
    if not least <= number <= most:
        msg = f"{number} is not within {least} and {most}"
        raise ValueError(msg)
    return number
