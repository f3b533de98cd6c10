"""What a segmentation says of itself: its segments, and where its frames lie.

PS3.3 C.8.20: segments with their meanings, frames of one segment each, or of the
numbers of all of them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from intake_idc.dicom.placing import (
    PER_FRAME,
    SHARED,
    items_of,
    kind_of,
    slices_of,
)
from intake_idc.dicom.reading import Dataset, values
from intake_idc.errors import DicomReadError, GeometryError

if TYPE_CHECKING:
    from intake_idc import volume

__all__ = ["Segment", "Segmentation", "read_segmentation"]

KINDS = ("BINARY", "FRACTIONAL", "LABELMAP")
MEASURES = "PixelMeasuresSequence"


@dataclass(frozen=True)
class Segment:
    """One segment, as its object describes it (PS3.3 C.8.20.4)."""

    number: int
    """SegmentNumber."""
    label: str
    """SegmentLabel."""
    category: str
    """Meaning of SegmentedPropertyCategoryCodeSequence, such as ``"Organ"``."""
    type: str
    """Meaning of SegmentedPropertyTypeCodeSequence, such as ``"Liver"``."""
    category_code: str
    """Its scheme and value, such as ``"SCT 123037004"``."""
    type_code: str
    """The same of the type."""
    algorithm: str
    """SegmentAlgorithmType: ``AUTOMATIC``, ``SEMIAUTOMATIC`` or ``MANUAL``."""
    algorithm_name: str
    """SegmentAlgorithmName."""
    tracking_id: str
    """TrackingID."""
    tracking_uid: str
    """TrackingUID."""


@dataclass(frozen=True)
class Segmentation:
    """The header of a segmentation."""

    kind: str
    """SegmentationType: ``BINARY``, ``FRACTIONAL`` or ``LABELMAP``."""
    meaning: str
    """SegmentationFractionalType: ``PROBABILITY`` or ``OCCUPANCY``."""
    maximum: int
    """MaximumFractionalValue: the stored value that means 1."""
    segments: tuple[Segment, ...]
    """By number, ascending. Of a label map, without the number that pads (PS3.3
    C.8.20.2.3.3)."""
    slices: tuple[volume.Slice, ...]
    """Where each frame lies, and of which segment it is, in order."""
    sources: tuple[str, ...]
    """SOPInstanceUID of the image that each frame was derived from; empty where there
    is none, or several."""
    spacing: float | None
    """SpacingBetweenSlices of all frames, mm."""
    rows: int
    """Rows of a frame."""
    columns: int
    """Columns of a frame."""
    uid: str
    """SOPInstanceUID."""
    series_uid: str
    """SeriesInstanceUID."""
    study_uid: str
    """StudyInstanceUID."""
    patient_id: str
    """PatientID."""
    frame_of_reference: str
    """FrameOfReferenceUID."""
    label: str
    """ContentLabel."""


def read_segmentation(header: Dataset, url: str = "") -> Segmentation:
    """Read the header of a segmentation.

    Parameters
    ----------
    header : pydicom.Dataset
        Everything before the pixel data.
    url : str
        Where the object lies, for errors.

    Raises
    ------
    GeometryError
        It is a segmentation of a slide, whose frames have no place in a patient; or a
        frame's place is malformed.
    DicomReadError
        It is no segmentation, or a malformed one.
    """
    _check_kind(header, url)
    own = values(
        header,
        (
            "SegmentationType",
            "SegmentationFractionalType",
            "MaximumFractionalValue",
            "PixelPaddingValue",
            "Rows",
            "Columns",
            "SOPInstanceUID",
            "SeriesInstanceUID",
            "StudyInstanceUID",
            "PatientID",
            "FrameOfReferenceUID",
            "ContentLabel",
        ),
        url,
    )
    kind = str(own["SegmentationType"] or "")
    if kind not in KINDS:
        raise _malformed(url, f"SegmentationType is {kind!r}, none of {KINDS}")
    maximum = own["MaximumFractionalValue"]
    if kind == "FRACTIONAL" and (not isinstance(maximum, int) or maximum < 1):
        raise _malformed(url, f"MaximumFractionalValue is {maximum!r}")
    if not all(
        isinstance(own[side], int) and own[side] for side in ("Rows", "Columns")
    ):
        raise _malformed(url, f"{own['Rows']!r} Rows, {own['Columns']!r} Columns")
    segments = _segments(header, url)
    if kind == "LABELMAP":
        padding = own["PixelPaddingValue"] or 0
        segments = [one for one in segments if one.number != padding]
    slices = slices_of(header, 0, url)
    if kind != "LABELMAP":
        _check_references(slices, segments, url)
    return Segmentation(
        kind=kind,
        meaning=str(own["SegmentationFractionalType"] or ""),
        maximum=maximum if kind == "FRACTIONAL" else 1,
        segments=tuple(segments),
        slices=tuple(slices),
        sources=tuple(_sources(header, url)),
        spacing=_spacing(header, url),
        rows=own["Rows"],
        columns=own["Columns"],
        uid=str(own["SOPInstanceUID"] or ""),
        series_uid=str(own["SeriesInstanceUID"] or ""),
        study_uid=str(own["StudyInstanceUID"] or ""),
        patient_id=str(own["PatientID"] or ""),
        frame_of_reference=str(own["FrameOfReferenceUID"] or ""),
        label=str(own["ContentLabel"] or ""),
    )


def _check_kind(header: Dataset, url: str) -> None:
    kind = kind_of(header, url)
    is_one = "SegmentSequence" in header
    if kind == "slide" and is_one:
        reason = "a segmentation of a slide: its frames are tiles"
        msg = f"{url}: {reason}, not planes of a patient; to_slide() reads them"
        raise GeometryError(msg, reasons=(reason,), url=url)
    if kind != "segmentation":
        sop_class = values(header, ("SOPClassUID",), url)["SOPClassUID"]
        msg = f"{url}: SOPClassUID {sop_class} is no segmentation; masks come from SEG"
        raise DicomReadError(msg, kind="other class", url=url)
    if values(header, ("ConcatenationUID",), url)["ConcatenationUID"] is not None:
        reason = "a part of a concatenation"
        msg = f"{url}: {reason} (PS3.3 C.7.6.16.2.2.4), which is not joined"
        raise GeometryError(msg, reasons=(reason,), url=url)


def _malformed(url: str, what: str) -> DicomReadError:
    return DicomReadError(f"{url}: malformed: {what}", kind="malformed", url=url)


def _segments(header: Dataset, url: str) -> list[Segment]:
    found = [_segment(item, url) for item in items_of(header, "SegmentSequence", url)]
    numbers = [one.number for one in found]
    if len(set(numbers)) < len(numbers):
        raise _malformed(url, f"segments with the same number: {sorted(numbers)}")
    return sorted(found, key=lambda one: one.number)


def _segment(item: Dataset, url: str) -> Segment:
    own = values(
        item,
        (
            "SegmentNumber",
            "SegmentLabel",
            "SegmentAlgorithmType",
            "SegmentAlgorithmName",
            "TrackingID",
            "TrackingUID",
        ),
        url,
    )
    number = own["SegmentNumber"]
    if not isinstance(number, int):
        raise _malformed(url, f"SegmentNumber is {number!r}")

    def text(keyword: str) -> str:
        return str(own[keyword] or "")

    category = _code(item, "SegmentedPropertyCategoryCodeSequence", url)
    kind = _code(item, "SegmentedPropertyTypeCodeSequence", url)
    return Segment(
        number=number,
        label=text("SegmentLabel"),
        category=category[0],
        type=kind[0],
        category_code=category[1],
        type_code=kind[1],
        algorithm=text("SegmentAlgorithmType"),
        algorithm_name=text("SegmentAlgorithmName"),
        tracking_id=text("TrackingID"),
        tracking_uid=text("TrackingUID"),
    )


def _code(item: Dataset, keyword: str, url: str) -> tuple[str, str]:
    """Give meaning, and scheme and value, of a code."""
    for code in items_of(item, keyword, url):
        names = "CodeMeaning", "CodingSchemeDesignator", "CodeValue", "LongCodeValue"
        meaning, scheme, short, long = values(code, names, url).values()
        return str(meaning or ""), f"{scheme or ''} {short or long or ''}".strip()
    return "", ""


def _check_references(
    slices: list[volume.Slice], segments: list[Segment], url: str
) -> None:
    known = {one.number for one in segments}
    for one in slices:
        if one.segment not in known:
            what = f"frame {one.frame} is of segment {one.segment}"
            raise _malformed(url, f"{what}, and the segments are {sorted(known)}")


def _sources(header: Dataset, url: str) -> list[str]:
    """Give the image that each frame was derived from, where it is one."""
    common = {
        uid for item in items_of(header, SHARED, url) for uid in _derived(item, url)
    }
    frames = [
        _derived(item, url) or common for item in items_of(header, PER_FRAME, url)
    ]
    return [next(iter(uids)) if len(uids) == 1 else "" for uids in frames]


def _derived(item: Dataset, url: str) -> set[str]:
    return {
        str(_value(source, "ReferencedSOPInstanceUID", url) or "")
        for image in items_of(item, "DerivationImageSequence", url)
        for source in items_of(image, "SourceImageSequence", url)
    }


def _spacing(header: Dataset, url: str) -> float | None:
    """Give SpacingBetweenSlices; that of the first frame, where they say it."""
    groups = [*items_of(header, SHARED, url)[:1], *items_of(header, PER_FRAME, url)[:1]]
    for item in groups:
        for measures in items_of(item, MEASURES, url):
            spacing = _value(measures, "SpacingBetweenSlices", url)
            if isinstance(spacing, float | int):
                return abs(float(spacing))
    return None


def _value(item: Dataset, keyword: str, url: str) -> Any:
    return values(item, (keyword,), url)[keyword]
