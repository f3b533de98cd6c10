"""Dask collections over a manifest; nothing is opened before compute.

A collection is one task for each partition, on a flat graph: a task holds a few packed
rows of the manifest, lists its series in the mirror, reads the objects in one bounded
batch, and gives a list.
"""

from intake_idc.lazy.bags import (
    PARTITION_BYTES,
    Collected,
    InstanceBag,
    InstanceItem,
)
from intake_idc.lazy.failures import Failure, OnError, failures_table
from intake_idc.lazy.frame_runs import Frames, frames
from intake_idc.lazy.handles import DicomObject
from intake_idc.lazy.header_tables import headers
from intake_idc.lazy.levels import Level
from intake_idc.lazy.opened import ObjectFile
from intake_idc.lazy.outside import to_nifti, to_sitk
from intake_idc.lazy.reading import datasets, header_rows, map_objects, objects
from intake_idc.lazy.scanning import Scan, scan_headers
from intake_idc.lazy.segmentations import Masks, to_masks
from intake_idc.lazy.series import (
    Delayed,
    Series,
    delayed_series,
    map_series,
    reduced,
)
from intake_idc.lazy.slides import Slide, slide_of, to_slide
from intake_idc.lazy.structures import contour_table, contours
from intake_idc.lazy.tables import file_frame, frame
from intake_idc.lazy.volumes import Volumes, grid_of, to_volume

__all__ = [
    "PARTITION_BYTES",
    "Collected",
    "Delayed",
    "DicomObject",
    "Failure",
    "Frames",
    "InstanceBag",
    "InstanceItem",
    "Level",
    "Masks",
    "ObjectFile",
    "OnError",
    "Scan",
    "Series",
    "Slide",
    "Volumes",
    "contour_table",
    "contours",
    "datasets",
    "delayed_series",
    "failures_table",
    "file_frame",
    "frame",
    "frames",
    "grid_of",
    "header_rows",
    "headers",
    "map_objects",
    "map_series",
    "objects",
    "reduced",
    "scan_headers",
    "slide_of",
    "to_masks",
    "to_nifti",
    "to_sitk",
    "to_slide",
    "to_volume",
]
