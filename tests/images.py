"""DICOM objects with pixels, made by pydicom for the tests of frames and decoding."""

from __future__ import annotations

import io

import numpy as np
import pydicom
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.encaps import encapsulate, encapsulate_extended
from pydicom.uid import (
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEGBaseline8Bit,
)


class Source:
    """An object in memory that counts the ranges and bytes it was asked for."""

    def __init__(self, data: bytes) -> None:
        self.data, self.requests, self.asked = data, 0, 0

    def read(self, start: int, stop: int) -> bytes:
        self.requests += 1
        self.asked += stop - start
        return self.data[start:stop]

    def read_many(self, ranges):
        return [self.read(start, stop) for start, stop in ranges]


def image(syntax=ExplicitVRLittleEndian, **elements) -> Dataset:
    """A dataset of one gray frame of 4 x 6 pixels, but for what is said."""
    dataset = Dataset()
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = syntax
    dataset.SOPClassUID = "1.2.840.10008.5.1.4.1.1.7.2"
    dataset.SOPInstanceUID = "1.2.3.4"
    dataset.SamplesPerPixel = 1
    dataset.PhotometricInterpretation = "MONOCHROME2"
    dataset.Rows, dataset.Columns = 4, 6
    dataset.BitsAllocated = dataset.BitsStored = 8
    dataset.HighBit = 7
    dataset.PixelRepresentation = 0
    for keyword, value in elements.items():
        setattr(dataset, keyword, value)
    return dataset


def saved(dataset: Dataset) -> bytes:
    """The bytes of a file."""
    buffer = io.BytesIO()
    syntax = dataset.file_meta.TransferSyntaxUID
    if not syntax.is_transfer_syntax:
        # pydicom does not write what it does not know: the newest, and private ones.
        dataset.file_meta.TransferSyntaxUID = JPEGBaseline8Bit
        named = syntax.encode().ljust(len(JPEGBaseline8Bit), b"\0")
        return saved(dataset).replace(JPEGBaseline8Bit.encode(), named)
    dataset.save_as(
        buffer,
        implicit_vr=syntax == ImplicitVRLittleEndian,
        little_endian=syntax != ExplicitVRBigEndian,
        enforce_file_format=True,
    )
    return buffer.getvalue()


def native(array: np.ndarray, syntax=ExplicitVRLittleEndian, **elements) -> bytes:
    """An object of native frames: (frames, rows, columns) or with 3 samples."""
    bits = 8 * array.dtype.itemsize
    dataset = image(
        syntax,
        NumberOfFrames=len(array),
        Rows=array.shape[1],
        Columns=array.shape[2],
        BitsAllocated=bits,
        BitsStored=bits,
        HighBit=bits - 1,
        PixelRepresentation=int(array.dtype.kind == "i"),
    )
    if array.ndim == 4:
        dataset.SamplesPerPixel = 3
        dataset.PlanarConfiguration = 0
        dataset.PhotometricInterpretation = "RGB"
    for keyword, value in elements.items():
        setattr(dataset, keyword, value)
    if dataset.get("PlanarConfiguration") == 1:
        array = array.transpose(0, 3, 1, 2)
    if syntax == ExplicitVRBigEndian:
        array = array.astype(array.dtype.newbyteorder(">"))
    data = array.tobytes()
    dataset.PixelData = data + b"\0" * (len(data) % 2)
    dataset["PixelData"].VR = "OB" if bits == 8 else "OW"
    return saved(dataset)


def encapsulated(
    frames, table="basic", *, fragments=1, syntax=JPEGBaseline8Bit, **elements
) -> bytes:
    """An object of encapsulated frames, with one table or none."""
    dataset = image(syntax, NumberOfFrames=len(frames), **elements)
    if table == "extended":
        data, offsets, lengths = encapsulate_extended(frames)
        dataset.ExtendedOffsetTable = offsets
        dataset.ExtendedOffsetTableLengths = lengths
    else:
        basic = table == "basic"
        data = encapsulate(frames, fragments_per_frame=fragments, has_bot=basic)
    dataset.PixelData = data
    dataset["PixelData"].VR = "OB"
    dataset["PixelData"].is_undefined_length = True
    return saved(dataset)


def codestream(number: int, length: int = 100) -> bytes:
    """Bytes that look like JPEG from outside: they begin and end as it does."""
    noise = np.random.default_rng(number).integers(1, 255, length - 8, np.uint8)
    return b"\xff\xd8\xff\xe0" + noise.tobytes() + b"\x01\x02\xff\xd9"


def pixel_data_at(data: bytes) -> int:
    """Where the value of the pixel data begins; explicit, little endian."""
    return data.index(b"\xe0\x7f\x10\x00O") + 12


def read(data: bytes) -> Dataset:
    return pydicom.dcmread(io.BytesIO(data))
