"""The contours of a structure set, as rows (PS3.3 C.8.8.5, C.8.8.6, C.8.8.8)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from pydicom.dataelem import RawDataElement

from intake_idc.dicom.placing import items_of
from intake_idc.dicom.reading import PYDICOM_RAISES, Dataset, values
from intake_idc.errors import DicomReadError

if TYPE_CHECKING:
    import numpy.typing as npt

__all__ = ["CONTOUR_COLUMNS", "contour_rows"]

STRUCTURE_SET = "1.2.840.10008.5.1.4.1.1.481.3"
"""RT Structure Set Storage."""

CONTOUR_COLUMNS = (
    "SOPInstanceUID",
    "ROINumber",
    "ROIName",
    "RTROIInterpretedType",
    "contour",
    "ContourGeometricType",
    "NumberOfContourPoints",
    "points",
    "ReferencedSOPInstanceUID",
    "FrameOfReferenceUID",
    "ROIDisplayColor",
)
"""What a row has, in this order."""

CONTOUR_DATA = 0x30060050
"""ContourData."""


def contour_rows(dataset: Dataset, url: str = "") -> list[dict[str, Any]]:
    """Give a row for each contour of a structure set.

    Parameters
    ----------
    dataset : pydicom.Dataset
        The whole object.
    url : str
        Where it lies, for errors.

    Returns
    -------
    list of dict
        In the order of the object; see `CONTOUR_COLUMNS`. ``contour`` counts from 0 in
        its region; ``points`` are x, y, z, x, ... in mm (LPS), a float64 array;
        ``ReferencedSOPInstanceUID`` is the image that the contour lies on, None where
        there is none, or several; ``ROIDisplayColor`` is red, green, blue, from 0 to
        255. What is missing is None.

    Raises
    ------
    DicomReadError
        It is no structure set, or a malformed one: a coordinate is no number, or
        there are more or fewer points than it says.
    """
    own = values(dataset, ("SOPClassUID", "SOPInstanceUID"), url)
    if own["SOPClassUID"] != STRUCTURE_SET:
        msg = f"{url}: SOPClassUID {own['SOPClassUID']} is no RT Structure Set"
        raise DicomReadError(msg, kind="other class", url=url)
    regions = _regions(dataset, url)
    rows = []
    for item in items_of(dataset, "ROIContourSequence", url):
        about = values(item, ("ReferencedROINumber", "ROIDisplayColor"), url)
        number = _whole(about["ReferencedROINumber"], "ReferencedROINumber", url)
        color = about["ROIDisplayColor"]
        if color is not None:
            parts = color if isinstance(color, list) else [color]
            color = [_whole(part, "ROIDisplayColor", url) for part in parts]
        region = {
            "SOPInstanceUID": _text(own["SOPInstanceUID"]),
            "ROINumber": number,
            **_NOTHING,
            **regions.get(number, {}),
        }
        contours = items_of(item, "ContourSequence", url)
        for at, contour in enumerate(contours):
            row = {
                **region,
                "contour": at,
                "ROIDisplayColor": color,
                **_contour(contour, f"region {number}, contour {at}", url),
            }
            rows.append({name: row[name] for name in CONTOUR_COLUMNS})
    return rows


def _whole(value: Any, keyword: str, url: str) -> int | None:
    """Give a number that 32 bits hold, as DICOM's own IS does (PS3.5 6.2)."""
    if value is not None and not (isinstance(value, int) and abs(value) < 2**31):
        msg = f"{url}: malformed: {keyword} of {value!r}"
        raise DicomReadError(msg, kind="malformed", url=url)
    return value


def _text(value: Any) -> str | None:
    """Give a text as it is written, with the backslashes that make it several."""
    if isinstance(value, list):
        return "\\".join(str(part or "") for part in value)
    return None if value is None else str(value)


_NOTHING = {
    "ROIName": None,
    "RTROIInterpretedType": None,
    "FrameOfReferenceUID": None,
}


def _regions(dataset: Dataset, url: str) -> dict[Any, dict[str, Any]]:
    """Give what is said of each region, by its number."""
    found: dict[Any, dict[str, Any]] = {}
    for item in items_of(dataset, "StructureSetROISequence", url):
        names = "ROINumber", "ROIName", "ReferencedFrameOfReferenceUID"
        number, name, reference = values(item, names, url).values()
        found[_whole(number, "ROINumber", url)] = {
            "ROIName": _text(name),
            "FrameOfReferenceUID": _text(reference),
        }
    for item in items_of(dataset, "RTROIObservationsSequence", url):
        both = "ReferencedROINumber", "RTROIInterpretedType"
        number, kind = values(item, both, url).values()
        if kind is not None:
            region = found.setdefault(_whole(number, "ReferencedROINumber", url), {})
            region.setdefault("RTROIInterpretedType", _text(kind))
    return found


def _contour(item: Dataset, where: str, url: str) -> dict[str, Any]:
    own = values(item, ("ContourGeometricType", "NumberOfContourPoints"), url)
    points = _points(item, where, url)
    count = own["NumberOfContourPoints"]
    if count is not None and 3 * count != len(points):
        msg = (
            f"{url}: malformed: {where} has NumberOfContourPoints of {count}, and "
            f"{len(points)} coordinates, three of which make a point"
        )
        raise DicomReadError(msg, kind="malformed", url=url)
    reference = "ReferencedSOPInstanceUID"
    images = {
        _text(values(image, (reference,), url)[reference])
        for image in items_of(item, "ContourImageSequence", url)
    }
    return {
        "ContourGeometricType": _text(own["ContourGeometricType"]),
        "NumberOfContourPoints": len(points) // 3,
        "points": points,
        "ReferencedSOPInstanceUID": images.pop() if len(images) == 1 else None,
    }


def _points(item: Dataset, where: str, url: str) -> npt.NDArray[np.float64]:
    """Read ContourData, without making an object of each of its numbers.

    pydicom takes seven times as long, and a structure set may have a million of them.
    """
    try:
        element: Any = item.get_item(CONTOUR_DATA) if CONTOUR_DATA in item else None
        value = None if element is None else element.value
        if isinstance(element, RawDataElement) and isinstance(value, bytes):
            # Python would take 1_0 for 10.
            plain = value.strip(b" \0").replace(b"_", b"?")
            texts = plain.split(b"\\") if plain else []
        else:
            texts = [] if value is None else item.ContourData or []
        points = np.array([float(text) for text in texts], np.float64)
    except PYDICOM_RAISES as error:
        msg = f"{url}: malformed: {where} has a coordinate that is no number ({error})"
        raise DicomReadError(msg, kind="malformed", url=url) from error
    if len(points) % 3 or not np.isfinite(points).all():
        what = "no points" if len(points) % 3 else "a coordinate that is not finite"
        msg = f"{url}: malformed: {where} has {what}: {len(points)} numbers"
        raise DicomReadError(msg, kind="malformed", url=url)
    return points
