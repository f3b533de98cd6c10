"""Whole slide images, cut into tiles and made to objects by pydicom for the tests."""

from __future__ import annotations

import uuid
from pathlib import Path

import numpy as np
import pyarrow as pa
from images import saved
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.encaps import encapsulate
from pydicom.sequence import Sequence
from pydicom.uid import ExplicitVRLittleEndian, JPEGBaseline8Bit

from intake_idc import resolve_mirror
from intake_idc.lazy import DicomObject
from intake_idc.manifest import Manifest
from intake_idc.storage import instances

SLIDE = "1.2.840.10008.5.1.4.1.1.77.1.6"
ORIGIN = (20.0, 30.0)


def picture(rows, columns, seed=0, kind=np.uint8, samples=3):
    """A smooth image with some noise, so that no two tiles are alike."""
    random = np.random.default_rng(seed)
    down, across = np.mgrid[:rows, :columns]
    waves = np.sin(down / 7 + seed) + np.cos(across / 11)
    channels = [waves * (30 + 10 * n) + 120 for n in range(samples)]
    image = np.stack(channels, -1) + random.integers(0, 12, (rows, columns, samples))
    image = image.astype(kind)
    return image if samples > 1 else image[..., 0]


def item(**elements):
    dataset = Dataset()
    for keyword, value in elements.items():
        setattr(dataset, keyword, value)
    return dataset


def tiles_of(image, size):
    """The tiles of an image, row by row, as (row, column, pixels); cropped at edges."""
    height, width = size
    return [
        (row, column, image[row : row + height, column : column + width])
        for row in range(0, image.shape[0], height)
        for column in range(0, image.shape[1], width)
    ]


def padded(tile, size):
    whole = np.zeros((*size, *tile.shape[2:]), tile.dtype)
    whole[: tile.shape[0], : tile.shape[1]] = tile
    return whole


def described(rows, columns, size, *, number=1, flavour="VOLUME", spacing=0.5, **more):
    """What an object of a slide says of itself, but for its frames."""
    dataset = Dataset()
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset.SOPClassUID = SLIDE
    dataset.SOPInstanceUID = f"1.2.3.4.{number}"
    dataset.StudyInstanceUID, dataset.SeriesInstanceUID = "1.2.3", "1.2.3.5"
    dataset.FrameOfReferenceUID = "1.2.3.6"
    dataset.Modality = "SM"
    dataset.ImageType = ["DERIVED", "PRIMARY", flavour, "RESAMPLED"]
    dataset.DimensionOrganizationType = "TILED_FULL"
    dataset.ContainerIdentifier = "slide"
    dataset.VolumetricProperties = "VOLUME"
    dataset.FocusMethod = "AUTO"
    dataset.ExtendedDepthOfField = "NO"
    dataset.AcquisitionDateTime = "20200101000000"
    dataset.AcquisitionDuration = 1.0
    dataset.BurnedInAnnotation = "NO"
    dataset.SpecimenLabelInImage = "NO"
    dataset.LossyImageCompression = "00"
    dataset.Manufacturer = "m"
    dataset.InstanceNumber = number
    dataset.TotalPixelMatrixRows, dataset.TotalPixelMatrixColumns = rows, columns
    dataset.TotalPixelMatrixFocalPlanes = 1
    dataset.NumberOfOpticalPaths = 1
    dataset.ImagedVolumeHeight, dataset.ImagedVolumeWidth = (
        rows * spacing,
        columns * spacing,
    )
    dataset.ImagedVolumeDepth = 1.0
    dataset.ImageOrientationSlide = [0, -1, 0, -1, 0, 0]
    dataset.TotalPixelMatrixOriginSequence = Sequence(
        [
            item(
                XOffsetInSlideCoordinateSystem=ORIGIN[0],
                YOffsetInSlideCoordinateSystem=ORIGIN[1],
            )
        ]
    )
    dataset.OpticalPathSequence = Sequence([optical_path("1")])
    measures = item(
        PixelSpacing=[spacing, spacing],
        SliceThickness=1.0,
        SpacingBetweenSlices=0.25,
    )
    frame_type = item(FrameType=list(dataset.ImageType))
    dataset.SharedFunctionalGroupsSequence = Sequence(
        [
            item(
                PixelMeasuresSequence=Sequence([measures]),
                WholeSlideMicroscopyImageFrameTypeSequence=Sequence([frame_type]),
            )
        ]
    )
    dataset.Rows, dataset.Columns = size
    dataset.HighBit = 7
    dataset.BitsAllocated = dataset.BitsStored = 8
    dataset.PixelRepresentation = 0
    for keyword, value in more.items():
        setattr(dataset, keyword, value)
    return dataset


def optical_path(identifier, description=""):
    code = item(
        CodeValue="111744", CodingSchemeDesignator="DCM", CodeMeaning="Brightfield"
    )
    path = item(
        OpticalPathIdentifier=identifier,
        IlluminationTypeCodeSequence=Sequence([code]),
        IlluminationWaveLength=500.0,
    )
    if description:
        path.OpticalPathDescription = description
    return path


def with_frames(dataset, tiles, *, jpeg=False, cropped=False):
    """Give a description its frames, native or as JPEG; the bytes of the object."""
    size = dataset.Rows, dataset.Columns
    colour = tiles[0].ndim == 3
    dataset.NumberOfFrames = len(tiles)
    dataset.SamplesPerPixel = 3 if colour else 1
    dataset.PhotometricInterpretation = "RGB" if colour else "MONOCHROME2"
    if colour:
        dataset.PlanarConfiguration = 0
    bits = 8 * tiles[0].dtype.itemsize
    dataset.BitsAllocated = dataset.BitsStored = bits
    dataset.HighBit = bits - 1
    if jpeg:
        dataset.file_meta.TransferSyntaxUID = JPEGBaseline8Bit
        dataset.PhotometricInterpretation = "YBR_FULL_422"
        dataset.PixelData = encapsulate(
            [encoded(tile if cropped else padded(tile, size)) for tile in tiles]
        )
        dataset["PixelData"].is_undefined_length = True
        dataset["PixelData"].VR = "OB"
    else:
        data = b"".join(padded(tile, size).tobytes() for tile in tiles)
        dataset.PixelData = data + b"\0" * (len(data) % 2)
        dataset["PixelData"].VR = "OB" if bits == 8 else "OW"
    return saved(dataset)


def encoded(tile):
    import imagecodecs

    return imagecodecs.jpeg8_encode(np.ascontiguousarray(tile), level=90)


def as_decoded(image, size):
    """The image after its tiles were encoded and decoded, by imagecodecs alone."""
    import imagecodecs

    out = np.empty_like(image)
    for row, column, tile in tiles_of(image, size):
        found = imagecodecs.jpeg8_decode(encoded(padded(tile, size)))
        out[row : row + tile.shape[0], column : column + tile.shape[1]] = found[
            : tile.shape[0], : tile.shape[1]
        ]
    return out


def place(row, column, *, height=None, path=None):
    """What a frame of a sparse matrix says of its place; rows and columns from 0."""
    position = item(
        RowPositionInTotalImagePixelMatrix=row + 1,
        ColumnPositionInTotalImagePixelMatrix=column + 1,
        XOffsetInSlideCoordinateSystem="1.5",
        YOffsetInSlideCoordinateSystem="-2.25",
        ZOffsetInSlideCoordinateSystem="0" if height is None else str(height),
    )
    said = item(
        FrameContentSequence=Sequence([item(DimensionIndexValues=[1, 1])]),
        PlanePositionSlideSequence=Sequence([position]),
    )
    if path is not None:
        identified = item(OpticalPathIdentifier=path)
        said.OpticalPathIdentificationSequence = Sequence([identified])
    return said


def pyramid(image, size, *, levels=3, **options):
    """An image and its halves as TILED_FULL objects: (picture, bytes) of each level."""
    found = []
    for level in range(levels):
        one = np.ascontiguousarray(image[:: 2**level, :: 2**level])
        kind = "NONE" if level == 0 else "RESAMPLED"
        dataset = described(
            *one.shape[:2], size, number=level + 1, spacing=0.5 * 2**level
        )
        dataset.ImageType = ["ORIGINAL" if level == 0 else "DERIVED", "PRIMARY"]
        dataset.ImageType += ["VOLUME", kind]
        dataset.SharedFunctionalGroupsSequence[
            0
        ].WholeSlideMicroscopyImageFrameTypeSequence[0].FrameType = dataset.ImageType
        tiles = [tile for _, _, tile in tiles_of(one, size)]
        found.append((one, with_frames(dataset, tiles, **options)))
    return found


class Bucket:
    """Objects as series in a folder of buckets, and a manifest of them."""

    def __init__(self, root: Path, name: str = "slides") -> None:
        self.root, self.name = root, name
        self.series: dict[str, list[bytes]] = {}

    def add(self, *objects: bytes) -> str:
        """Write a series; its crdc_series_uuid. Objects keep their order."""
        series = str(uuid.uuid5(uuid.NAMESPACE_OID, str(len(self.series))))
        folder = self.root / self.name / series
        folder.mkdir(parents=True)
        for number, data in enumerate(objects):
            name = uuid.UUID(int=number + 1)
            (folder / f"{name}.dcm").write_bytes(data)
        self.series[series] = list(objects)
        return series

    @property
    def mirror(self):
        return resolve_mirror(f"{self.root}/{{aws_bucket}}")

    def manifest(self, *series: str) -> Manifest:
        """A manifest of some of its series, or of all, with exact sizes."""
        uuids = list(series or self.series)
        sizes = [sum(map(len, self.series[one])) / 1e6 for one in uuids]
        columns = {
            "crdc_series_uuid": uuids,
            "aws_bucket": [self.name] * len(uuids),
            "instanceCount": [len(self.series[one]) for one in uuids],
            "series_size_MB": sizes,
            "row_source": ["idc_index"] * len(uuids),
        }
        return Manifest(pa.table(columns), 25)

    def objects(self, *series: str, mirror=None) -> list[DicomObject]:
        """Handles of the objects."""
        mirror = mirror or self.mirror
        listed = instances(self.manifest(*series).parts(), mirror)
        return [DicomObject(one, mirror) for one in listed]
