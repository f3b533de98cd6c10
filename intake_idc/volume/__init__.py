"""The geometry of a series from the values of its headers: order, affine, verdict.

No bytes and no files: `Slice` values come in, an `Arrangement` of `Stack` values goes
out. Everything is in mm and in DICOM's patient coordinates (LPS: x to the left, y to
the back, z to the head; PS3.3 C.7.6.2.1.1), in float64; indices run
``(slice, row, column)``, and nothing is ever resampled.

- `Slice` is what the header of one image, or of one frame, says.
- `arrange` sorts the slices of a series into stacks, and says what is wrong.
- `Grid` is a shape and an affine: from voxels to mm and back, RAS, NIfTI.
- `from_index` gives the grid of a series from the index tables, with no object read.
- `lattice` finds the grid of planes of which many are missing, and `place` puts them on
  the voxels of another volume: those of a segmentation.
- `rescaled_dtype` and `rescale` apply slopes and intercepts as exactly as they can.
"""

from __future__ import annotations

from intake_idc.volume.axes import Axis
from intake_idc.volume.grid import Grid, from_index, lps_to_ras, nifti_affine
from intake_idc.volume.rescaling import rescale, rescaled_dtype
from intake_idc.volume.slices import (
    GROUP_KEYWORDS,
    GROUPS,
    KEYWORDS,
    Slice,
    dose_slices,
    frame_slices,
)
from intake_idc.volume.sparse import Placement, lattice, place
from intake_idc.volume.stacks import Stack
from intake_idc.volume.verdict import Arrangement, Aside, arrange
from intake_idc.volume.windowing import window

__all__ = [
    "GROUPS",
    "GROUP_KEYWORDS",
    "KEYWORDS",
    "Arrangement",
    "Aside",
    "Axis",
    "Grid",
    "Placement",
    "Slice",
    "Stack",
    "arrange",
    "dose_slices",
    "frame_slices",
    "from_index",
    "lattice",
    "lps_to_ras",
    "nifti_affine",
    "place",
    "rescale",
    "rescaled_dtype",
    "window",
]
