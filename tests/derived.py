"""Series with places, and what was derived from them, in a folder that is a mirror."""

from __future__ import annotations

import uuid
from pathlib import Path

import numpy as np
import pyarrow as pa
from images import image, saved
from pydicom.dataset import Dataset
from pydicom.uid import generate_uid

from intake_idc.lazy import DicomObject
from intake_idc.manifest import Manifest
from intake_idc.storage import instances, resolve_mirror

CT = "1.2.840.10008.5.1.4.1.1.2"
STUDY, FRAME_OF_REFERENCE = generate_uid(), generate_uid()
AXIAL = (1, 0, 0, 0, 1, 0)
_ANGLE = np.deg2rad(25)
OBLIQUE = (np.cos(_ANGLE), np.sin(_ANGLE), 0, 0, 0, -1)


def series(root: Path, files: list[bytes]) -> tuple[Manifest, list[DicomObject]]:
    """Put files below a root as one series: its manifest, and its objects, in order."""
    folder = str(uuid.uuid4())
    place = root / "idc-open-data" / folder
    place.mkdir(parents=True)
    for number, data in enumerate(files):
        (place / f"{uuid.UUID(int=number)}.dcm").write_bytes(data)
    table = pa.table(
        {
            "crdc_series_uuid": [folder],
            "aws_bucket": ["idc-open-data"],
            "instanceCount": pa.array([len(files)], pa.int64()),
            "series_size_MB": [sum(map(len, files)) / 1e6],
            "row_source": ["idc_index"],
            "SeriesInstanceUID": [generate_uid()],
        }
    )
    manifest, mirror = Manifest(table, 25), mirror_of(root)
    listed = instances(manifest.parts(), mirror)
    return manifest, [DicomObject(one, mirror) for one in listed]


def mirror_of(root: Path):
    return resolve_mirror(f"{root}/{{aws_bucket}}")


def common(dataset: Dataset) -> Dataset:
    """Say what every object says of patient and study."""
    dataset.PatientID, dataset.PatientName = "1", "One^Patient"
    dataset.PatientBirthDate = dataset.PatientSex = ""
    dataset.StudyInstanceUID = STUDY
    dataset.StudyID = dataset.AccessionNumber = dataset.ReferringPhysicianName = ""
    dataset.StudyDate = dataset.StudyTime = ""
    dataset.FrameOfReferenceUID = FRAME_OF_REFERENCE
    return dataset


def ct_slices(
    count=6,
    *,
    rows=7,
    columns=9,
    orientation=AXIAL,
    step=None,
    origin=(-10.0, 20.0, 30.0),
) -> list[Dataset]:
    """Images along a straight line, in the order of their places on the normal."""
    along_row, along_column = np.reshape(orientation, (2, 3)).astype(float)
    step = 2.5 * np.cross(along_row, along_column) if step is None else step
    uid = generate_uid()
    slices = []
    for number in range(count):
        one = common(image(SOPClassUID=CT, SOPInstanceUID=generate_uid()))
        one.file_meta.MediaStorageSOPClassUID = CT
        one.SeriesInstanceUID, one.Modality, one.InstanceNumber = uid, "CT", 99 - number
        one.Rows, one.Columns = rows, columns
        one.BitsAllocated = one.BitsStored = 16
        one.HighBit, one.PixelRepresentation = 15, 1
        one.ImageType = ["ORIGINAL", "PRIMARY", "AXIAL"]
        one.ImageOrientationPatient = [f"{v:.10f}"[:16] for v in orientation]
        place = np.asarray(origin) + number * np.asarray(step)
        one.ImagePositionPatient = [f"{v:.10f}"[:16] for v in place]
        one.PixelSpacing, one.SliceThickness = [0.75, 1.25], 2.5
        one.RescaleSlope, one.RescaleIntercept = 1, -1024
        stored = np.full((rows, columns), number, np.int16)
        one.PixelData = stored.tobytes() + b"\0\0" * (stored.size % 2)
        one["PixelData"].VR = "OW"
        slices.append(one)
    return slices


def files(datasets) -> list[bytes]:
    return [saved(one) for one in datasets]
