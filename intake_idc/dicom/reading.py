"""A header, a whole dataset, a row of values: what pydicom reads.

Whatever pydicom raises on bad input leaves as `DicomReadError`, with the kind, the
URL and the offset.
"""

from __future__ import annotations

import io
import struct
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from pydicom import Dataset
from pydicom.datadict import keyword_dict, tag_for_keyword
from pydicom.errors import BytesLengthException, InvalidDicomError
from pydicom.filereader import dcmread, read_partial
from pydicom.multival import MultiValue
from pydicom.sequence import Sequence as DicomSequence
from pydicom.uid import DeflatedExplicitVRLittleEndian, ExplicitVRLittleEndian
from pydicom.valuerep import DA, DT, IS, TM, DSdecimal, DSfloat, PersonName

from intake_idc.dicom.elements import HEADER_BYTES, Marked, walk
from intake_idc.dicom.inflating import inflate
from intake_idc.dicom.walking import transfer_syntax
from intake_idc.errors import DicomReadError, RequestError, nearest

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from pydicom.tag import BaseTag

__all__ = [
    "HEADER_BYTES",
    "Dataset",
    "check_keywords",
    "read_dataset",
    "read_header",
    "read_references",
    "read_until",
    "referenced_series",
    "values",
    "weight",
]

FILE_META_GROUP = 0x0002
"""Group of the File Meta Information (PS3.10 7.1)."""

PIXEL_DATA = (0x7FE00008, 0x7FE00009, 0x7FE00010)
"""Float Pixel Data, Double Float Pixel Data and Pixel Data (PS3.3 C.7.6.3)."""

ANNOTATION_GROUPS = 0x006A0002
"""Annotation Group Sequence (PS3.3 C.37.1.2): the points of an object of annotations,
245 MB on the mean in IDC, which it has in place of pixels."""
BULK = frozenset({*PIXEL_DATA, ANNOTATION_GROUPS})
"""Where a header ends."""
LAST_REFERENCE = 0x30060010
"""Referenced Frame of Reference Sequence: of what tells the series that an object is
of, it stands last."""
LONG = (0x0040A730, ANNOTATION_GROUPS)
"""Content Sequence of a report and Annotation Group Sequence: what is of the one or
the other says so before."""

_PLAIN: dict[type, Callable[[Any], Any]] = {
    DSfloat: float,
    DSdecimal: float,
    IS: int,
    PersonName: str,
    DA: str,
    DT: str,
    TM: str,
    str: str,
}
"""What pydicom's value classes become: Python's own types, which travel anywhere."""

PYDICOM_RAISES = (
    ArithmeticError,
    AttributeError,
    BytesLengthException,
    EOFError,
    InvalidDicomError,
    LookupError,
    NotImplementedError,
    OSError,
    RecursionError,
    RuntimeError,
    StopIteration,
    TypeError,
    ValueError,
    struct.error,
)
"""What 25,000 mutated files made pydicom raise, and a whole number that is infinite."""


def read_dataset(data: bytes, url: str = "") -> Dataset:
    """Read a whole object.

    Parameters
    ----------
    data : bytes
        A whole DICOM file (PS3.10).
    url : str
        Where it came from, for the error.

    Returns
    -------
    pydicom.Dataset
        With its pixel data still encoded, and without the buffer it was read from,
        which would otherwise travel with it.

    Raises
    ------
    DicomReadError
        It is not DICOM, is cut short, or is malformed.
    """
    window, syntax, start, deflated = entered(Marked.over(data, url))
    walk(window, start, syntax, lambda _: False)
    file = io.BytesIO(window.data)
    try:
        dataset = dcmread(file)
    except PYDICOM_RAISES as error:
        raise unreadable(error, url, file.tell()) from error
    _check_elements(dataset, url, len(data))
    return finished(dataset, deflated=deflated)


def read_header(read: Callable[[int, int], bytes], size: int, url: str = "") -> Dataset:
    """Read everything before the bulk of an object, in as few bytes as it takes.

    The bulk is its pixel data, or its groups of annotations (PS3.3 C.37.1.2).

    The header is complete only when the reader has met the pixel data, or the end
    of the object: of 2,400 headers cut at random, pydicom read 87 % without an
    error, and every third of those ended in a wrong value.

    Parameters
    ----------
    read : callable
        ``read(start, stop)`` gives the bytes of that range.
    size : int
        Bytes of the whole object.
    url : str
        Where it lies, for the error.

    Returns
    -------
    pydicom.Dataset
        Without pixel data: equal to ``dcmread(..., stop_before_pixels=True)``. Of
        annotations without those, and what stands behind them.

    Raises
    ------
    DicomReadError
        It is not DICOM, is cut short, or is malformed.
    """
    return read_until(BULK.__contains__, read, size, url)


def read_references(
    read: Callable[[int, int], bytes], size: int, url: str = ""
) -> Dataset:
    """Read as much of a header as `referenced_series` asks for.

    Contours, annotations and the content of a report stand after that, and may be
    large. Parameters and errors are those of `read_header`.
    """
    return read_until(_after_references, read, size, url)


def _after_references(tag: int) -> bool:
    return tag > LAST_REFERENCE or tag in LONG


def read_until(
    ends: Callable[[int], bool],
    read: Callable[[int, int], bytes],
    size: int,
    url: str,
) -> Dataset:
    """Read everything before the first element whose tag ends it.

    Parameters
    ----------
    ends : callable
        Takes a tag, as a number, of the top level.
    read, size, url
        As in `read_header`, and so are the errors.
    """
    window, syntax, start, deflated = entered(Marked(read, size, url))
    _, end = walk(window, start, syntax, ends)
    met_end = False

    def at_end(tag: BaseTag, _vr: str | None, _length: int) -> bool:
        nonlocal met_end
        met_end = ends(tag)
        return met_end

    file = io.BytesIO(window.data)
    try:
        dataset = read_partial(file, at_end)
    except PYDICOM_RAISES as error:
        raise unreadable(error, url, file.tell()) from error
    if end + 8 <= window.size and not met_end:
        # Without this, it would read on into bytes that are cut anywhere.
        msg = f"{url}: malformed: the header that ends at byte {end} cannot be read"
        raise DicomReadError(msg, kind="malformed", url=url, offset=end)
    _check_elements(dataset, url, len(window.data))
    return finished(dataset, deflated=deflated)


def entered(window: Marked) -> tuple[Marked, str, int, bool]:
    """Go to where the dataset begins.

    Returns
    -------
    Marked, str, int, bool
        A window with all bytes from the first on, inflated where they are deflated;
        the transfer syntax; where the dataset begins; and whether it was deflated.

    Raises
    ------
    DicomReadError
        It is not DICOM, or what is deflated is not right.
    """
    syntax, position = transfer_syntax(window)
    deflated = syntax == DeflatedExplicitVRLittleEndian
    if deflated:
        window = _inflated(window, syntax, position)
    return window, syntax, position, deflated


def _inflated(window: Marked, syntax: str, start: int) -> Marked:
    """Undo the Deflated transfer syntax (PS3.5 A.5) within bounds; pydicom has none.

    Nothing of it can be read before all of it is there. The bytes that are given say
    that they are not deflated, which is true of them.
    """
    data = window.rest(0)
    plain = ExplicitVRLittleEndian.encode().ljust(len(syntax), b"\0")
    meta = data[:start].replace(syntax.encode(), plain)
    inflated = inflate(memoryview(data)[start:], window.url, offset=start)
    return Marked.over(meta + inflated, window.url)


def referenced_series(dataset: Dataset, url: str = "") -> list[str]:
    """Give the SeriesInstanceUIDs of the series that an object says it is of.

    Those of the Common Instance Reference Module (PS3.3 C.12.2: segmentations,
    annotations), of the frames of reference of a structure set (C.8.8.5), and of the
    evidence of a report, current and other (C.17.2). Each once, in that order, its
    own left out.

    Raises
    ------
    DicomReadError
        A sequence is malformed.
    """
    try:
        found = dict.fromkeys(map(str, _referenced(dataset)))
        own = str(dataset.get("SeriesInstanceUID", ""))
    except PYDICOM_RAISES as error:
        msg = f"{url}: the series that it is of cannot be read ({error})"
        raise DicomReadError(msg, kind="malformed", url=url) from error
    return [uid for uid in found if uid not in ("", "None", own)]


_REFERENCES = (
    ("ReferencedSeriesSequence",),
    ("StudiesContainingOtherReferencedInstancesSequence", "ReferencedSeriesSequence"),
    (
        "ReferencedFrameOfReferenceSequence",
        "RTReferencedStudySequence",
        "RTReferencedSeriesSequence",
    ),
    ("CurrentRequestedProcedureEvidenceSequence", "ReferencedSeriesSequence"),
    ("PertinentOtherEvidenceSequence", "ReferencedSeriesSequence"),
)
"""Paths of sequences whose items hold a SeriesInstanceUID."""


def _referenced(dataset: Dataset) -> Iterator[Any]:
    for path in _REFERENCES:
        items = [dataset]
        for keyword in path:
            items = [inner for item in items for inner in item.get(keyword) or ()]
        yield from (item.get("SeriesInstanceUID") for item in items)


def _check_elements(dataset: Dataset, url: str, length: int) -> None:
    """Refuse what pydicom takes for an empty dataset, such as a lone preamble."""
    if not len(dataset) or "TransferSyntaxUID" not in dataset.file_meta:
        msg = f"{url}: {length} bytes with no DICOM element or no transfer syntax"
        raise DicomReadError(msg, kind="malformed", url=url, offset=length)


def finished(dataset: Dataset, *, deflated: bool) -> Dataset:
    """Let go of the buffer: with it a header of 13 kB pickles to 545 kB."""
    if deflated:
        dataset.file_meta.TransferSyntaxUID = DeflatedExplicitVRLittleEndian
    dataset.buffer = None  # type: ignore[attr-defined,unused-ignore]
    return dataset


def unreadable(error: BaseException, url: str, offset: int) -> DicomReadError:
    cut = isinstance(error, EOFError | struct.error | OSError) or "bytes" in str(error)
    if isinstance(error, InvalidDicomError):
        kind = "not dicom"
    else:
        kind = "truncated" if cut else "malformed"
    reason = str(error).splitlines()[0] if str(error) else ""
    msg = f"{url}: {kind} at byte {offset} ({type(error).__name__}: {reason})"
    return DicomReadError(msg, kind=kind, url=url, offset=offset)


def values(dataset: Dataset, keywords: Sequence[str], url: str = "") -> dict[str, Any]:
    """Give elements of a dataset as plain Python values, by DICOM keyword.

    Texts, numbers and lists of them; dates and person names as text; None where an
    element is missing or empty. Sequences and bulk data are not values.

    Raises
    ------
    DicomReadError
        A value cannot be converted, or is a sequence or bulk data.
    """
    return {keyword: _value(dataset, keyword, url) for keyword in keywords}


def check_keywords(keywords: Sequence[str]) -> None:
    """Refuse what is no DICOM keyword (PS3.6), and name the nearest.

    Raises
    ------
    RequestError
        A keyword is not in the dictionary.
    """
    for keyword in keywords:
        if not isinstance(keyword, str) or tag_for_keyword(keyword) is None:
            near = nearest(keyword, keyword_dict)
            msg = f"{keyword!r} is no DICOM keyword{near}"
            raise RequestError(msg, keyword=keyword)


def _value(dataset: Dataset, keyword: str, url: str) -> Any:
    tag = tag_for_keyword(keyword)
    in_file_meta = tag is not None and tag >> 16 == FILE_META_GROUP
    try:
        return _plain((dataset.file_meta if in_file_meta else dataset).get(keyword))
    except PYDICOM_RAISES as error:
        msg = f"{url}: {keyword} cannot be given as a value ({error})"
        raise DicomReadError(msg, kind="malformed", url=url) from error


def _plain(value: Any) -> Any:
    if isinstance(value, MultiValue):
        return [_plain(item) for item in value] or None
    if isinstance(value, DicomSequence | bytes):
        msg = f"{type(value).__name__} is not a plain value"
        raise TypeError(msg)
    for kind, plain in _PLAIN.items():
        if isinstance(value, kind):
            value = plain(value)
    return None if value == "" else value


def weight(dataset: Dataset) -> int:
    """Estimate the bytes that a dataset takes in memory, bulk data counted."""
    size = 1_000
    for element in dataset.values():
        value = getattr(element, "value", None)
        size += 200 + (len(value) if isinstance(value, bytes | str) else 0)
    return size
