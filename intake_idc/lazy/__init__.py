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
from intake_idc.lazy.objects import DicomObject
from intake_idc.lazy.reading import datasets, header_rows, map_objects, objects
from intake_idc.lazy.series import (
    Delayed,
    Series,
    delayed_series,
    map_series,
    reduced,
)
from intake_idc.lazy.tables import file_frame, frame

__all__ = [
    "PARTITION_BYTES",
    "Collected",
    "Delayed",
    "DicomObject",
    "Failure",
    "InstanceBag",
    "InstanceItem",
    "OnError",
    "Series",
    "datasets",
    "delayed_series",
    "failures_table",
    "file_frame",
    "frame",
    "header_rows",
    "map_objects",
    "map_series",
    "objects",
    "reduced",
]
