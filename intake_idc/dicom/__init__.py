"""DICOM out of bytes: a header, a whole dataset, the frames of an image.

Nothing here opens a file or a connection; bytes come from a caller, or from a
function that reads a range. Whatever is wrong with an object leaves as
`DicomReadError`, with the kind, the URL and the offset.
"""

from intake_idc.dicom.decoding import can_decode, decode, register_decoders
from intake_idc.dicom.frames import (
    FrameIndex,
    join,
    pieces,
    plan,
    read_frames,
    read_index,
)
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

__all__ = [
    "HEADER_BYTES",
    "Dataset",
    "FrameIndex",
    "can_decode",
    "check_keywords",
    "decode",
    "join",
    "kind_of",
    "pieces",
    "plan",
    "read_dataset",
    "read_frames",
    "read_header",
    "read_index",
    "read_references",
    "referenced_series",
    "register_decoders",
    "slices_of",
    "values",
    "weight",
]
