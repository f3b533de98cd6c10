"""Where the frames of an object lie: a header as slices, whatever kind it is of."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

from pydicom.datadict import keyword_for_tag, tag_for_keyword
from pydicom.sequence import Sequence as DicomSequence

from intake_idc import volume
from intake_idc.dicom.reading import PYDICOM_RAISES, Dataset, values
from intake_idc.errors import DicomReadError, GeometryError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

__all__ = ["Kind", "items_of", "kind_of", "slices_of"]

Kind = Literal["single", "enhanced", "segmentation", "dose", "slide", "frames"]
"""How the frames of an object get their places: it has one frame; by functional
groups, of images or of segments; by offsets from the first plane; on a slide, by row
and column of a larger image; not at all."""

DOSE = "1.2.840.10008.5.1.4.1.1.481.2"
"""RT Dose Storage."""
SEGMENTATIONS = (
    "1.2.840.10008.5.1.4.1.1.66.4",
    "1.2.840.10008.5.1.4.1.1.66.7",
)
"""Segmentation Storage, and Label Map Segmentation Storage."""
SLIDE = "1.2.840.10008.5.1.4.1.1.77.1.6"
"""VL Whole Slide Microscopy Image Storage."""

PER_FRAME = "PerFrameFunctionalGroupsSequence"
SHARED = "SharedFunctionalGroupsSequence"
ON_SLIDE = "PlanePositionSlideSequence"

_GROUP_TAGS = frozenset(map(tag_for_keyword, volume.GROUPS))
_ELEMENTS = {tag_for_keyword(name): name for name in volume.GROUP_KEYWORDS}


def kind_of(header: Dataset, url: str = "") -> Kind:
    """Tell how the frames of an object get their places.

    Raises
    ------
    DicomReadError
        An element that tells it is malformed.
    """
    found = values(
        header,
        (
            "SOPClassUID",
            "NumberOfFrames",
            "DimensionOrganizationType",
            "GridFrameOffsetVector",
        ),
        url,
    )
    sop_class = found["SOPClassUID"]
    organised = found["DimensionOrganizationType"] or ""
    if sop_class == SLIDE or str(organised).startswith("TILED"):
        return "slide"
    if sop_class == DOSE:
        return "dose" if found["GridFrameOffsetVector"] is not None else "frames"
    groups = items_of(header, PER_FRAME, url)
    if sop_class in SEGMENTATIONS:
        on_slide = any(ON_SLIDE in part for part in groups[:1])
        return "slide" if on_slide else "segmentation"
    if groups and ON_SLIDE not in groups[0]:
        return "enhanced"
    return "frames" if found["NumberOfFrames"] not in (None, 0, 1) else "single"


def slices_of(header: Dataset, index: int, url: str = "") -> list[volume.Slice]:
    """Give a slice for each frame of an object, with its place.

    An image of one frame says it itself. Enhanced objects and segmentations say it in
    their functional groups (PS3.3 C.7.6.16), an RT Dose by GridFrameOffsetVector
    (C.8.8.3.2), with DoseGridScaling as the slope. Of an object whose frames have no
    place in a patient (old multi-frame objects, slides), one slice stands for all of
    them; `volume.arrange` sets it aside with a reason.

    Parameters
    ----------
    header : pydicom.Dataset
        Everything before the pixel data, as `read_header` gives it.
    index : int
        What `volume.Slice.index` becomes: which instance of the series it is.
    url : str
        Where the object lies, for errors.

    Returns
    -------
    list of Slice
        In the order of the frames. Empty of an enhanced object that has no frames.

    Raises
    ------
    GeometryError
        A value is of the wrong kind or number, or there are more or fewer frames than
        places.
    DicomReadError
        An element is malformed.
    """
    kind = kind_of(header, url)
    instance = values(header, volume.KEYWORDS, url)
    try:
        if kind == "dose":
            return _dose_slices(header, instance, index, url)
        if kind in ("enhanced", "segmentation"):
            return _group_slices(header, instance, index, url)
        return [volume.Slice.from_values(instance, index)]
    except GeometryError as error:
        msg = f"{url}: {error.message}" if url else error.message
        details = {**error.details, "url": url}
        raise GeometryError(msg, **details) from error


def _dose_slices(
    header: Dataset, instance: Mapping[str, Any], index: int, url: str
) -> list[volume.Slice]:
    own = values(header, ("DoseGridScaling", "GridFrameOffsetVector"), url)
    offsets = own["GridFrameOffsetVector"]
    if not isinstance(offsets, list):
        offsets = [offsets]
    _check_count(instance, len(offsets), "offsets in GridFrameOffsetVector")
    return volume.dose_slices({**instance, **own}, offsets, index)


def _group_slices(
    header: Dataset, instance: Mapping[str, Any], index: int, url: str
) -> list[volume.Slice]:
    frames = items_of(header, PER_FRAME, url)
    _check_count(instance, len(frames), f"items in {PER_FRAME}")
    shared = [_groups(part, url) for part in items_of(header, SHARED, url)]
    common = shared[0] if shared else {}
    return volume.frame_slices(
        instance, [_groups(part, url) for part in frames], common, index
    )


def _check_count(instance: Mapping[str, Any], places: int, where: str) -> None:
    count = instance.get("NumberOfFrames")
    frames = 1 if count is None else count
    if frames != places:
        reason = f"{frames!r} frames, and {places} {where}"
        raise GeometryError(reason, reasons=(reason,))


def _groups(item: Dataset, url: str) -> dict[str, Any]:
    """Give the values of the functional groups that place a frame, flat."""
    found: dict[str, Any] = {}
    # By tags: a look-up by keyword takes ten times as long, and an item may hold
    # hundreds of other elements.
    for tag in item.keys():  # noqa: SIM118  (to iterate over a dataset reads it)
        if tag in _GROUP_TAGS:
            for part in items_of(item, keyword_for_tag(tag), url):
                keywords = [_ELEMENTS[one] for one in part.keys() if one in _ELEMENTS]  # noqa: SIM118
                found.update(values(part, keywords, url))
    return found


def items_of(dataset: Dataset, keyword: str, url: str = "") -> Sequence[Dataset]:
    """Give the items of a sequence; none where it is missing or empty.

    Raises
    ------
    DicomReadError
        The element is no sequence, or a malformed one.
    """
    try:
        found = dataset.get(keyword)
    except PYDICOM_RAISES as error:
        msg = f"{url}: {keyword} cannot be read ({error})"
        raise DicomReadError(msg, kind="malformed", url=url) from error
    if not found:
        return ()
    if not isinstance(found, DicomSequence):
        msg = f"{url}: {keyword} is no sequence, but {type(found).__name__}"
        raise DicomReadError(msg, kind="malformed", url=url)
    return found
