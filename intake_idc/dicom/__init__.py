"""DICOM out of bytes: a header, a whole dataset, the frames of an image.

Nothing here opens a file or a connection; bytes come from a caller, or from a
function that reads a range. Whatever is wrong with an object leaves as
`DicomReadError`, with the kind, the URL and the offset.
"""

from intake_idc.dicom.contours import CONTOUR_COLUMNS, contour_rows
from intake_idc.dicom.decoding import can_decode, decode, register_decoders
from intake_idc.dicom.frames import (
    FrameIndex,
    count_frames,
    join,
    pieces,
    plan,
    read_frames,
    read_index,
)
from intake_idc.dicom.identity import read_identity
from intake_idc.dicom.placing import kind_of, slices_of
from intake_idc.dicom.reading import (
    HEADER_BYTES,
    Dataset,
    check_keywords,
    read_dataset,
    read_header,
    read_references,
    referenced_series,
    values,
    weight,
)
from intake_idc.dicom.segments import Segment, Segmentation, read_segmentation
from intake_idc.dicom.tags import Tag, read_values, resolve_tags, values_of

__all__ = [
    "CONTOUR_COLUMNS",
    "HEADER_BYTES",
    "Dataset",
    "FrameIndex",
    "Segment",
    "Segmentation",
    "Tag",
    "can_decode",
    "check_keywords",
    "contour_rows",
    "count_frames",
    "decode",
    "join",
    "kind_of",
    "pieces",
    "plan",
    "read_dataset",
    "read_frames",
    "read_header",
    "read_identity",
    "read_index",
    "read_references",
    "read_segmentation",
    "read_values",
    "referenced_series",
    "register_decoders",
    "resolve_tags",
    "slices_of",
    "values",
    "values_of",
    "weight",
]
