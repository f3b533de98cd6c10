"""Slices of one kind and direction: where they lie, and what tells them apart."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from intake_idc.volume.axes import RANKED, STATED, Axis, axis_of, key, telling, unlike
from intake_idc.volume.grid import Grid, matrix_of, normal_of, skewed
from intake_idc.volume.slices import Slice

ORIENTATION = 1e-4
"""Largest difference of a direction cosine within a stack. Texts of one orientation
differ in their last digits: equality of texts splits what is one volume."""
SPACING = 1e-4
"""Largest relative difference of PixelSpacing within a stack."""
SAME_PLACE_MM = 1e-3
SAME_PLACE = 0.05
"""Slices lie at one place up to the larger of these: mm, and parts of the median
gap."""
UNIFORM = 0.01
"""Largest difference of a gap from the mean one; as volume_geometry_index has it."""
IN_PLANE_MM = 0.1
"""Largest distance in plane from the straight line through the stack."""
TOLD = 8
"""How many places or instances a reason lists."""


@dataclass(frozen=True)
class Stack:
    """Slices of one size, kind of pixels and direction, in order."""

    verdict: str
    """``regular``, ``tilted``, ``missing``, ``duplicate`` or ``not a volume``."""
    reasons: tuple[str, ...]
    """What is wrong, or worth knowing, each in a line."""
    order: tuple[int, ...]
    """`Slice.index` of each slice, the leading axis slowest. Without a grid: by
    position along the normal, and by what tells them apart."""
    frames: tuple[int, ...]
    """`Slice.frame` of each, in the same order."""
    shape: tuple[int, ...]
    """``(slices, rows, columns)``, or ``(axis, slices, rows, columns)``."""
    axis: Axis | None
    """The leading axis, where there is one."""
    grid: Grid | None
    """Where the voxels lie; None where the slices are on no regular grid. Of a single
    slice, the step is SliceThickness, or 1 mm."""
    corners: tuple[tuple[float, ...], ...]
    """ImagePositionPatient of each slice, mm, in the order of `order`."""
    positions: tuple[float, ...]
    """Projection of each slice on the normal, mm, in the order of `order`."""
    missing: tuple[float, ...]
    """Positions that lack a slice, where the others are whole steps apart."""
    lattice: Grid | None
    """The grid with every place, missing ones as well; None where the distances are
    not whole steps. Of a volume it is `grid`."""
    slots: tuple[int, ...]
    """Which place of the lattice each slice takes, in the order of `order`."""
    orientation: tuple[float, ...]
    """ImageOrientationPatient of the first slice."""
    pixel_spacing: tuple[float, ...]
    """PixelSpacing of the first slice: between rows, between columns, mm."""
    slopes: tuple[float, ...]
    """RescaleSlope of each slice, in the order of `order`."""
    intercepts: tuple[float, ...]
    """RescaleIntercept of each."""
    samples: int
    """SamplesPerPixel."""
    bits_allocated: int | None
    """BitsAllocated."""
    bits_stored: int | None
    """BitsStored, the largest of the slices."""
    signed: bool
    """Whether stored values are signed."""

    @property
    def regular(self) -> bool:
        """Whether it is a volume: on a grid, tilted or not, with nothing missing."""
        return self.verdict in ("regular", "tilted")

    @property
    def affine(self) -> NDArray[np.float64] | None:
        """The affine of its grid; see `Grid.affine`."""
        return None if self.grid is None else self.grid.affine

    @property
    def spacing(self) -> tuple[float, float, float] | None:
        """Distances in mm between slices, rows, columns."""
        return None if self.grid is None else self.grid.spacing

    @property
    def tilt(self) -> float | None:
        """Angle in degrees between the stack and the normal of its slices."""
        return None if self.grid is None else self.grid.tilt

    @property
    def orthogonal(self) -> bool | None:
        """Whether the slices lie straight over each other."""
        return None if self.grid is None else self.grid.orthogonal

    def __len__(self) -> int:
        return len(self.order)


def bins(values: NDArray[np.float64], tolerance: float) -> NDArray[np.intp]:
    """Label numbers from the least upwards; a bin is never wider than the tolerance."""
    by_value = np.argsort(values, kind="stable")
    ranked = values[by_value]
    labels = np.zeros(len(values), np.intp)
    start = label = 0
    while start < len(ranked):
        stop = int(np.searchsorted(ranked, ranked[start] + tolerance, "right"))
        labels[by_value[start : max(stop, start + 1)]] = label
        start, label = max(stop, start + 1), label + 1
    return labels


def alike(slices: Sequence[Slice]) -> list[list[Slice]]:
    """Part slices by size, kind of pixels, direction and PixelSpacing.

    All must have a position, an orientation and a spacing.
    """
    parts: dict[Any, list[Slice]] = {}
    for one in slices:
        parts.setdefault(_kind(one), []).append(one)
    for field, tolerance in (("orientation", ORIENTATION), ("pixel_spacing", SPACING)):
        finer: dict[Any, list[Slice]] = {}
        for kind, part in parts.items():
            vectors = np.array([getattr(one, field) for one in part])
            # The logarithm makes a relative tolerance an absolute one.
            numbers = np.log(vectors) if field == "pixel_spacing" else vectors
            labels = np.stack([bins(column, tolerance) for column in numbers.T], 1)
            for one, label in zip(part, labels.tolist(), strict=True):
                finer.setdefault((kind, tuple(label)), []).append(one)
        parts = finer
    return list(parts.values())


def _kind(one: Slice) -> tuple[Any, ...]:
    return (
        one.rows,
        one.columns,
        one.samples,
        one.bits_allocated,
        one.signed,
        one.frame_of_reference,
        one.stack,
    )


@dataclass
class _Findings:
    """What is said of a stack while it is looked at; the gravest verdict stays."""

    reasons: list[str]
    verdicts: list[str]

    def __call__(self, verdict: str, reason: str) -> None:
        self.verdicts.append(verdict)
        self.reasons.append(reason)

    def verdict(self) -> str:
        gravest = ("not a volume", "duplicate", "missing", "tilted")
        return next((v for v in gravest if v in self.verdicts), "regular")


def stack_of(slices: Sequence[Slice]) -> Stack:
    """Order slices that are `alike`, and say whether they make a volume."""
    find = _Findings([], [])
    orientations = np.array([one.orientation for one in slices])
    # Of all slices together: what differs in the last digits of the orientation would
    # shift their positions by as many parts of their distance from the origin.
    mean = orientations.mean(axis=0)
    corners = np.array([one.position for one in slices])
    wrong = skewed(mean)
    if wrong:
        find("not a volume", wrong)
    normal = normal_of(mean)
    along = corners @ normal
    labels = bins(along, tolerance(along))
    places: list[list[int]] = [[] for _ in range(int(labels.max()) + 1)]
    for at, label in enumerate(labels.tolist()):
        places[label].append(at)
    if any("MOSAIC" in one.image_type for one in slices):
        find("not a volume", "images are mosaics: many slices in one image")
    axis: Axis | None = None
    order, steps, many = list(range(len(slices))), None, len(places)
    if normal.any():
        axis, order = _order(slices, places, along, find)
        means = np.array([along[place].mean() for place in places])
        steps = _check_line(corners, along, normal, means, find)
    lattice = _grid(slices, (places[0][0], places[-1][0]), steps, normal)
    if steps is not None and many == len(slices) // (1 if axis is None else len(axis)):
        # The slices of the first step along the leading axis give the exact numbers.
        lattice = _grid(slices, (order[0], order[many - 1]), steps, normal)
    if find.verdict() == "regular" and lattice and not lattice.orthogonal:
        find("tilted", f"slices are sheared by {lattice.tilt:.2f} degrees")
    first = slices[order[0]]
    count = (many,) if axis is None else (len(axis), many)
    if math.prod(count) != len(slices):
        count = (len(slices),)
    missing: tuple[float, ...] = ()
    slots: tuple[int, ...] = ()
    if steps is not None:
        missing = _missing(means, steps)
        slots = tuple(int(steps[labels[at]]) for at in order)
    return Stack(
        verdict=find.verdict(),
        reasons=tuple(find.reasons),
        order=tuple(slices[at].index for at in order),
        frames=tuple(slices[at].frame for at in order),
        shape=(*count, first.rows or 0, first.columns or 0),
        axis=axis,
        grid=lattice if find.verdict() in ("regular", "tilted") or many == 1 else None,
        corners=tuple(slices[at].position or () for at in order),
        positions=tuple(along[order].tolist()),
        missing=missing,
        lattice=lattice,
        slots=slots,
        orientation=first.orientation or (),
        pixel_spacing=first.pixel_spacing or (),
        slopes=tuple(slices[at].slope for at in order),
        intercepts=tuple(slices[at].intercept for at in order),
        samples=first.samples,
        bits_allocated=first.bits_allocated,
        bits_stored=max((one.bits_stored or 0 for one in slices), default=0) or None,
        signed=first.signed,
    )


def tolerance(along: NDArray[np.float64]) -> float:
    """Give how far apart slices may be that lie at one place, mm."""
    gaps = np.diff(np.sort(along))
    gaps = gaps[gaps > SAME_PLACE_MM]
    return max(SAME_PLACE_MM, SAME_PLACE * float(np.median(gaps)) if gaps.size else 0.0)


def _order(
    slices: Sequence[Slice],
    places: Sequence[Sequence[int]],
    along: NDArray[np.float64],
    find: _Findings,
) -> tuple[Axis | None, list[int]]:
    """Order slices: by the leading axis, where there is one, and by place."""
    there = [[slices[at] for at in place] for place in places]
    counts = Counter(map(len, places))
    if set(counts) == {1} and len({one.segment for one in slices}) == 1:
        for field in ("temporal_position", "echo_time", "b_value"):
            several = len({getattr(one, field) for one in slices})
            if several > 1:
                find("regular", f"{field} has {several} values, by place")
        return None, [place[0] for place in places]
    found = telling(there) if len(counts) == 1 and not counts[1] else None
    if found is not None:
        fields, shared = found
        ranked = [
            sorted(place, key=lambda at: key(slices[at], fields)) for place in places
        ]
        axis = axis_of([slices[at] for at in ranked[0]], fields, shared=shared)
        return axis, [place[rank] for rank in range(len(axis)) for place in ranked]
    lacking = unlike(there)
    # A lone extra slice is a duplicate, whatever it says; of a segmentation, each
    # segment has the frames that it fills.
    usual = 2 * (len(places) - counts[1]) >= len(places) or "segment" in lacking
    if lacking and usual:
        find("missing", _lacking(there, lacking, along, places))
    else:
        find("duplicate", _crowded(there, along, places))
    fields = tuple(field for field, _ in STATED + RANKED)
    flat = [
        at
        for place in places
        for at in sorted(place, key=lambda at: key(slices[at], fields))
    ]
    return None, flat


def _lacking(
    places: Sequence[Sequence[Slice]],
    fields: tuple[str, ...],
    along: NDArray[np.float64],
    members: Sequence[Sequence[int]],
) -> str:
    """Say which value has no slice at which place."""
    (field,) = fields
    everywhere = sorted({key(one, fields) for place in places for one in place})
    lacking = []
    for (one_key,) in everywhere:
        at = [
            f"{along[member[0]]:.6g}"
            for place, member in zip(places, members, strict=True)
            if all(key(one, fields) != (one_key,) for one in place)
        ]
        if at:
            value = one_key[1] if one_key[0] else "not given"
            lacking.append(f"{field} {value} has no slice at {_list(at)} mm")
    return _list(lacking, "; ")


def _crowded(
    places: Sequence[Sequence[Slice]],
    along: NDArray[np.float64],
    members: Sequence[Sequence[int]],
) -> str:
    """Say at which places lie how many slices."""
    counts = Counter(map(len, places))
    usual, _ = counts.most_common(1)[0]
    told = [
        f"{len(place)} at {along[member[0]]:.6g} mm (instances "
        f"{_list([str(one.index) for one in place])})"
        for place, member in zip(places, members, strict=True)
        if len(place) != usual or len(counts) == 1
    ]
    elsewhere = f"; elsewhere {usual}" if len(counts) > 1 else ""
    return (
        "slices lie at the same position, and nothing tells them apart: "
        f"{_list(told)}{elsewhere}"
    )


def _list(items: Sequence[str], between: str = ", ") -> str:
    more = f"{between}and {len(items) - TOLD} more" if len(items) > TOLD else ""
    return between.join(items[:TOLD]) + more


def _check_line(
    corners: NDArray[np.float64],
    along: NDArray[np.float64],
    normal: NDArray[np.float64],
    means: NDArray[np.float64],
    find: _Findings,
) -> NDArray[np.intp] | None:
    """Say whether places lie evenly on a straight line.

    Returns
    -------
    numpy.ndarray or None
        How many steps each place is from the first; None where distances are not
        whole steps.
    """
    if len(means) == 1:
        many = len(corners)
        find(
            "not a volume",
            "one slice only: there is no distance between slices"
            if many == 1
            else f"all {many} slices lie at {means[0]:.6g} mm: there is no distance",
        )
        return np.zeros(1, np.intp)
    first, last = int(np.argmin(along)), int(np.argmax(along))
    slope = (corners[last] - corners[first]) / (along[last] - along[first])
    shift = corners - corners[first] - np.outer(along - along[first], slope)
    aside = shift - np.outer(shift @ normal, normal)
    farthest = float(np.linalg.norm(aside, axis=1).max())
    if farthest > IN_PLANE_MM:
        find(
            "not a volume",
            f"slices lie up to {farthest:.3g} mm in plane from a straight line",
        )
    return _check_gaps(means, find)


def _check_gaps(means: NDArray[np.float64], find: _Findings) -> NDArray[np.intp] | None:
    gaps = np.diff(means)
    mean = float(means[-1] - means[0]) / len(gaps)
    if np.abs(gaps - mean).max() <= UNIFORM * mean:
        return np.arange(len(means))
    times = np.round(gaps / gaps.min())
    step = float(gaps.sum() / times.sum())
    lost = int(times.sum()) - len(gaps)
    whole = np.abs(gaps - times * step).max() <= UNIFORM * step
    # More lost than there would be a guess, and may be as many as one likes.
    if not whole or not 0 < lost < len(means):
        find(
            "not a volume",
            f"distances between slices vary from {gaps.min():.6g} to {gaps.max():.6g}"
            " mm",
        )
        return None
    steps = np.concatenate([[0], np.cumsum(times)]).astype(np.intp)
    places = _list([f"{place:.6g}" for place in _missing(means, steps)])
    find("missing", f"{lost} missing at {places} mm, {step:.6g} mm apart")
    return steps


def _missing(means: NDArray[np.float64], steps: NDArray[np.intp]) -> tuple[float, ...]:
    """Positions of the steps that no place takes."""
    every = np.arange(int(steps[-1]) + 1)
    lost = np.setdiff1d(every, steps)
    return tuple(np.interp(lost, steps, means).tolist())


def _grid(
    slices: Sequence[Slice],
    ends: tuple[int, int],
    steps: NDArray[np.intp] | None,
    normal: NDArray[np.float64],
) -> Grid | None:
    """Give the grid between the first and the last slice."""
    if steps is None:
        return None
    first, last = (slices[at] for at in ends)
    many = int(steps[-1])
    start, stop = np.array(first.position), np.array(last.position)
    thick = first.thickness if first.thickness and first.thickness > 0 else 1.0
    matrix = matrix_of(
        start,
        (stop - start) / many if many else normal * thick,
        first.orientation or (),
        first.pixel_spacing or (),
    )
    return Grid((many + 1, first.rows or 0, first.columns or 0), matrix)
