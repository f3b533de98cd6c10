"""What a header says of the place of one image: plain values, checked once."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import date
from typing import Any

from intake_idc.errors import GeometryError
from intake_idc.volume.grid import normal_of, skewed

Numbers = tuple[float, ...]

SHORT = 60
"""Characters of a value that an error repeats."""


@dataclass(frozen=True)
class Slice:
    """Geometry, kind of pixels, and what tells apart, of one image or one frame."""

    index: int
    """Which instance it is, in the caller's own count."""
    frame: int = 0
    """Which frame of a multi-frame instance, from 0."""
    frames: int = 1
    """NumberOfFrames that stand for this one slice: more than 1 has no one place, and
    is made into slices by `frame_slices` or `dose_slices`."""
    uid: str = ""
    """SOPInstanceUID."""
    sop_class: str = ""
    """SOPClassUID."""
    frame_of_reference: str = ""
    """FrameOfReferenceUID: positions of different ones are not comparable."""
    stack: str = ""
    """StackID of an enhanced multi-frame object (PS3.3 C.7.6.16.2.2)."""
    position: Numbers | None = None
    """ImagePositionPatient: centre of the first voxel, mm, LPS."""
    orientation: Numbers | None = None
    """ImageOrientationPatient: direction of a row, then that of a column."""
    pixel_spacing: Numbers | None = None
    """PixelSpacing: mm between rows, between columns."""
    thickness: float | None = None
    """SliceThickness, mm: of the slab, not the distance between slices."""
    rows: int | None = None
    """Rows; None where the object holds no image."""
    columns: int | None = None
    """Columns."""
    samples: int = 1
    """SamplesPerPixel: 1, or 3 in colour."""
    bits_allocated: int | None = None
    """BitsAllocated."""
    bits_stored: int | None = None
    """BitsStored."""
    signed: bool = False
    """PixelRepresentation 1."""
    image_type: tuple[str, ...] = ()
    """ImageType, or FrameType."""
    instance_number: int | None = None
    """InstanceNumber. Never used to order slices in space."""
    segment: int | None = None
    """ReferencedSegmentNumber of a segmentation's frame."""
    temporal_position: int | None = None
    """TemporalPositionIdentifier, or TemporalPositionIndex."""
    temporal_positions: int | None = None
    """NumberOfTemporalPositions of the series."""
    echo_time: float | None = None
    """EchoTime, or EffectiveEchoTime, ms."""
    echo_numbers: Numbers | None = None
    """EchoNumbers."""
    b_value: float | None = None
    """DiffusionBValue, s/mm2."""
    trigger_time: float | None = None
    """TriggerTime, or NominalCardiacTriggerDelayTime, ms."""
    acquisition_number: int | None = None
    """AcquisitionNumber."""
    acquisition_time: float | None = None
    """AcquisitionTime, s since midnight, or since the year 1 where a date is given;
    None where the text is no time."""
    content_time: float | None = None
    """ContentTime, the same."""
    slope: float = 1.0
    """RescaleSlope; 1 where it is missing (PS3.3 C.11.1)."""
    intercept: float = 0.0
    """RescaleIntercept; 0 where it is missing."""
    rescale_type: str = ""
    """RescaleType: the units that slope and intercept give."""
    gantry_tilt: float | None = None
    """GantryDetectorTilt as given, degrees. Its sign differs between makers, so that
    tilt is taken from the positions instead."""

    @classmethod
    def from_values(
        cls, values: Mapping[str, Any], index: int = 0, frame: int = 0
    ) -> Slice:
        """Take the values that a slice needs out of a header.

        Parameters
        ----------
        values : mapping
            By DICOM keyword (`KEYWORDS`), as `intake_idc.dicom.values` gives them:
            numbers, texts or lists; None where missing. Others are passed over.
        index, frame : int
            Which instance and frame it is.

        Raises
        ------
        GeometryError
            A value is of the wrong kind or number.
        """
        found: dict[str, Any] = {}
        for keyword, (field, convert) in _FIELDS.items():
            value = values.get(keyword)
            if value is None or (isinstance(value, str) and not value.strip()):
                continue
            try:
                converted = convert(value)
            except (TypeError, ValueError, OverflowError) as error:
                reason = f"{keyword} is {_short(value)}: {error}"
                msg = f"instance {index}, frame {frame}: {reason}"
                raise GeometryError(
                    msg, reasons=(reason,), keyword=keyword, index=index
                ) from error
            if converted is not None:
                found[field] = converted
        return cls(index, frame, **found)


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= SHORT else f"{text[:SHORT]}..."


FAR = 1e6
"""No patient lies a kilometre away: larger numbers would only overflow."""


def _number(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        msg = "one number is expected"
        raise TypeError(msg)
    number = float(value)
    if not math.isfinite(number):
        msg = "a finite number is expected"
        raise ValueError(msg)
    return number


def _whole(value: Any) -> int:
    number = _number(value)
    if number != int(number):
        msg = "a whole number is expected"
        raise ValueError(msg)
    return int(number)


def _count(value: Any) -> int:
    count = _whole(value)
    if count < 1:
        msg = "a count of at least 1 is expected"
        raise ValueError(msg)
    return count


def _flag(value: Any) -> bool:
    flag = _whole(value)
    if flag not in (0, 1):
        msg = "0 or 1 is expected"
        raise ValueError(msg)
    return bool(flag)


def _text(value: Any) -> str:
    if not isinstance(value, str | int):
        msg = "one text is expected"
        raise TypeError(msg)
    return str(value).strip()


def _items(value: Any) -> list[Any]:
    if isinstance(value, str):
        return value.split("\\")
    if isinstance(value, int | float):
        return [value]
    if isinstance(value, Mapping):
        msg = "a list is expected"
        raise TypeError(msg)
    return list(value)


def _texts(value: Any) -> tuple[str, ...]:
    return tuple("" if one is None else _text(one) for one in _items(value))


def _joined(value: Any) -> str:
    return "\\".join(_texts(value))


def _numbers(value: Any) -> Numbers:
    return tuple(map(_number, _items(value)))


def _vector(length: int) -> Callable[[Any], Numbers]:
    def convert(value: Any) -> Numbers:
        numbers = _numbers(value)
        if len(numbers) != length:
            msg = f"{length} numbers are expected, not {len(numbers)}"
            raise ValueError(msg)
        if max(map(abs, numbers)) > FAR:
            msg = f"numbers up to {FAR:.0f} are expected"
            raise ValueError(msg)
        return numbers

    return convert


def _direction(value: Any) -> Numbers:
    numbers = _vector(6)(value)
    if not any(numbers[:3]) or not any(numbers[3:]):
        msg = "a direction has no length"
        raise ValueError(msg)
    return numbers


def _spacing(value: Any) -> Numbers:
    numbers = _vector(2)(value)
    if min(numbers) <= 0:
        msg = "distances above 0 are expected"
        raise ValueError(msg)
    return numbers


def _time(value: Any) -> float | None:
    """Seconds of a TM or DT (PS3.5 6.2); None where it is neither.

    Times only tell slices of one place apart: one that is not well formed is no reason
    to refuse an image.
    """
    text = _text(value).replace(":", "")
    whole, _, rest = text.partition(".")
    fraction = rest[:6].partition("+")[0].partition("-")[0]
    try:
        days, clock = 0, whole
        if len(whole) > len("HHMMSS"):
            days = date(int(whole[:4]), int(whole[4:6]), int(whole[6:8])).toordinal()
            clock = whole[8:14]
        hours, minutes, seconds = (int(clock[at : at + 2] or 0) for at in (0, 2, 4))
        part = float(f"0.{fraction or 0}")
    except ValueError:
        return None
    return ((days * 24 + hours) * 60 + minutes) * 60 + seconds + part


_FIELDS: dict[str, tuple[str, Callable[[Any], Any]]] = {
    "SOPInstanceUID": ("uid", _text),
    "SOPClassUID": ("sop_class", _text),
    "NumberOfFrames": ("frames", _count),
    "FrameOfReferenceUID": ("frame_of_reference", _text),
    "StackID": ("stack", _text),
    "ImagePositionPatient": ("position", _vector(3)),
    "ImageOrientationPatient": ("orientation", _direction),
    "PixelSpacing": ("pixel_spacing", _spacing),
    "SliceThickness": ("thickness", _number),
    "Rows": ("rows", _count),
    "Columns": ("columns", _count),
    "SamplesPerPixel": ("samples", _count),
    "BitsAllocated": ("bits_allocated", _count),
    "BitsStored": ("bits_stored", _count),
    "PixelRepresentation": ("signed", _flag),
    "ImageType": ("image_type", _texts),
    "InstanceNumber": ("instance_number", _whole),
    "ReferencedSegmentNumber": ("segment", _whole),
    "TemporalPositionIdentifier": ("temporal_position", _whole),
    "NumberOfTemporalPositions": ("temporal_positions", _whole),
    "EchoTime": ("echo_time", _number),
    "EchoNumbers": ("echo_numbers", _numbers),
    "DiffusionBValue": ("b_value", _number),
    "TriggerTime": ("trigger_time", _number),
    "AcquisitionNumber": ("acquisition_number", _whole),
    "AcquisitionTime": ("acquisition_time", _time),
    "ContentTime": ("content_time", _time),
    "RescaleSlope": ("slope", _number),
    "RescaleIntercept": ("intercept", _number),
    "RescaleType": ("rescale_type", _joined),
    "GantryDetectorTilt": ("gantry_tilt", _number),
}

KEYWORDS = tuple(
    keyword
    for keyword in _FIELDS
    if keyword not in ("StackID", "ReferencedSegmentNumber")
)
"""Elements that `Slice.from_values` reads of a header."""


# Multi-frame objects.

_GROUPS = {
    "CTImageFrameTypeSequence": {"FrameType": "ImageType"},
    "CTPixelValueTransformationSequence": {},
    "CardiacSynchronizationSequence": {
        "NominalCardiacTriggerDelayTime": "TriggerTime",
    },
    "FrameContentSequence": {
        "FrameAcquisitionDateTime": "AcquisitionTime",
        "FrameAcquisitionNumber": "AcquisitionNumber",
        "FrameReferenceDateTime": "ContentTime",
        "TemporalPositionIndex": "TemporalPositionIdentifier",
    },
    "MRDiffusionSequence": {},
    "MREchoSequence": {"EffectiveEchoTime": "EchoTime"},
    "MRImageFrameTypeSequence": {"FrameType": "ImageType"},
    "PETFrameTypeSequence": {"FrameType": "ImageType"},
    "PixelMeasuresSequence": {},
    "PixelValueTransformationSequence": {},
    "PlaneOrientationSequence": {},
    "PlanePositionSequence": {},
    "SegmentIdentificationSequence": {},
    "TemporalPositionSequence": {},
}
"""Functional groups that a slice is read from (PS3.3 C.7.6.16.2, C.8.13.5, C.8.15.3),
and what their elements are called in a single-frame object."""

_RENAMED = {old: new for names in _GROUPS.values() for old, new in names.items()}

GROUPS = tuple(_GROUPS)
"""Functional groups that `frame_slices` reads of a frame."""
GROUP_KEYWORDS = frozenset({*_FIELDS, *_RENAMED})
"""Elements that it reads of their items."""


def frame_slices(
    instance: Mapping[str, Any],
    frames: Sequence[Mapping[str, Any]],
    shared: Mapping[str, Any] | None = None,
    index: int = 0,
) -> list[Slice]:
    """Give a slice for each frame of an enhanced object or a segmentation.

    Parameters
    ----------
    instance : mapping
        Values of the object itself, by keyword.
    frames : sequence of mapping
        Values of each item of PerFrameFunctionalGroupsSequence: by keyword, flat
        (``{"ImagePositionPatient": [...]}``) or nested as they stand
        (``{"PlanePositionSequence": [{"ImagePositionPatient": [...]}]}``).
    shared : mapping, optional
        Values of the item of SharedFunctionalGroupsSequence, the same way. What a
        frame says goes before it, and it before the object.
    index : int
        Which instance it is.

    Raises
    ------
    GeometryError
        A value is of the wrong kind or number.
    """
    common = {**instance, **dict(_flat(shared or {})), "NumberOfFrames": None}
    return [
        Slice.from_values({**common, **dict(_flat(frame))}, index, number)
        for number, frame in enumerate(frames)
    ]


def _flat(group: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    for keyword, value in group.items():
        if keyword in _GROUPS:
            items = [value] if isinstance(value, Mapping) else value or ()
            for item in items:
                yield from _flat(item)
        elif value is not None:
            yield _RENAMED.get(keyword, keyword), value


def dose_slices(
    instance: Mapping[str, Any], offsets: Sequence[float], index: int = 0
) -> list[Slice]:
    """Give a slice for each plane of an RT Dose object.

    Parameters
    ----------
    instance : mapping
        Values of the object, by keyword. DoseGridScaling, where it is given, becomes
        the slope.
    offsets : sequence of float
        GridFrameOffsetVector, mm (PS3.3 C.8.8.3.2): from the first plane along the
        normal where its first number is 0, and else the z of each plane, which is
        only right of transverse planes.
    index : int
        Which instance it is.

    Raises
    ------
    GeometryError
        There is no position or orientation, or the offsets are of neither kind.
    """
    own = {
        "NumberOfFrames": None,
        "RescaleSlope": instance.get("DoseGridScaling"),
        "RescaleIntercept": 0,
    }
    first = Slice.from_values({**instance, **own}, index)
    if first.position is None or first.orientation is None or skewed(first.orientation):
        reason = "an RT Dose without a usable position and orientation"
        raise GeometryError(f"instance {index}: {reason}", reasons=(reason,))
    normal = normal_of(first.orientation)
    try:
        distances = list(_numbers(offsets))
    except (TypeError, ValueError) as error:
        reason = f"GridFrameOffsetVector is {_short(offsets)}: {error}"
        raise GeometryError(f"instance {index}: {reason}", reasons=(reason,)) from error
    if distances and distances[0]:
        tilted = abs(abs(float(normal[2])) - 1) > 1e-4  # noqa: PLR2004
        if tilted or abs(distances[0] - first.position[2]) > 1e-2:  # noqa: PLR2004
            reason = (
                f"GridFrameOffsetVector starts at {distances[0]:g}, which is neither 0 "
                f"nor the z of a transverse plane"
            )
            raise GeometryError(f"instance {index}: {reason}", reasons=(reason,))
        distances = [(z - distances[0]) * float(normal[2]) for z in distances]
    places = ((first.position + far * normal).tolist() for far in distances)
    return [
        replace(first, frame=number, position=tuple(place))
        for number, place in enumerate(places)
    ]
