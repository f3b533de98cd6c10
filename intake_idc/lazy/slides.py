"""Slides: the objects of one series of whole slide microscopy, put together."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from intake_idc.dicom.tiles import OpticalPath, Tiling, read_tiling
from intake_idc.errors import GeometryError, RequestError
from intake_idc.lazy.bags import check_rows
from intake_idc.lazy.extras import need
from intake_idc.lazy.handles import DicomObject, Source
from intake_idc.lazy.levels import CHUNK_BYTES, Level, Tiled
from intake_idc.lazy.tasks import list_objects
from intake_idc.storage import each

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from xarray import DataTree

    from intake_idc.manifest import Manifest
    from intake_idc.storage import Mirror

__all__ = ["Slide", "slide_of", "to_slide"]

SAME = 1 + 1e-6
"""Spacings that differ by less are one."""

Image = tuple[DicomObject, Tiling]


@dataclass(frozen=True)
class Slide:
    """The images of one slide; their pixels are read when they are asked for."""

    levels: tuple[Level, ...]
    """The pyramid, largest first."""
    label: Level | None = None
    """A picture of the label of the glass."""
    overview: Level | None = None
    """A picture of all of the glass."""
    thumbnail: Level | None = None
    """A small picture of the tissue."""
    aside: tuple[tuple[DicomObject, str], ...] = ()
    """Objects that are none of these, and why."""

    def __repr__(self) -> str:
        sizes = ", ".join(f"{level.rows} x {level.columns}" for level in self.levels)
        return f"<Slide of {len(self.levels)} levels: {sizes}>"

    @property
    def downsamples(self) -> tuple[float, ...]:
        """How much smaller each level is than the largest: the ratio of their sizes."""
        first = self.levels[0]
        return tuple(
            math.sqrt(first.rows * first.columns / (one.rows * one.columns))
            for one in self.levels
        )

    def level_for(self, spacing: float) -> Level:
        """Give the smallest level that is at least as fine as a spacing in mm.

        Raises
        ------
        GeometryError
            A level does not say its spacing.
        """
        fine = [self.levels[0]]
        for level in self.levels:
            if level.spacing is None:
                msg = (
                    f"{level.parts[0].found.url} does not say how large its pixels are"
                )
                raise GeometryError(msg, verdict="no place", reasons=(msg,))
            if max(level.spacing) <= spacing * SAME:
                fine.append(level)
        return fine[-1]

    def to_datatree(self) -> DataTree:
        """Give all images as an `xarray.DataTree` of lazy arrays.

        One node for each: ``level0`` and so on, ``label``, ``overview``,
        ``thumbnail``, each with the variable ``image``; see `Level.to_xarray`. Takes
        the ``volumes`` extra.
        """
        xr = need("xarray", "volumes")
        named = {f"level{n}": level for n, level in enumerate(self.levels)}
        others = {
            "label": self.label,
            "overview": self.overview,
            "thumbnail": self.thumbnail,
        }
        named.update({name: one for name, one in others.items() if one is not None})
        nodes = {
            f"/{name}": xr.Dataset({"image": level.to_xarray()})
            for name, level in named.items()
        }
        tree: DataTree = xr.DataTree.from_dict(nodes)
        return tree

    def to_wsidicom(self) -> Any:
        """Open the slide with wsidicom, over files that read by ranges.

        Takes the ``wsi`` extra.

        Returns
        -------
        wsidicom.WsiDicom
            With all objects of the slide; close it after use.
        """
        wsidicom = need("wsidicom", "wsi").WsiDicom
        extra = (self.label, self.overview, self.thumbnail)
        images = (*self.levels, *(one for one in extra if one is not None))
        opened = [part.found.open() for image in images for part in image.parts]
        # A path is asked for as well, to name the file in an error.
        files, inside = (need(f"wsidicom.file{x}", "wsi") for x in ("", ".io"))
        path = need("upath", "wsi").UPath
        streams = [inside.WsiDicomReadIO(one, path(one.name)) for one in opened]
        return wsidicom(files.WsiDicomFileSource(streams))


def slide_of(
    objects: Sequence[DicomObject],
    *,
    rgb: bool = True,
    chunk_bytes: int = CHUNK_BYTES,
) -> Slide:
    """Make a slide of the objects of one series; their headers are read, side by side.

    Parameters
    ----------
    objects : sequence of DicomObject
        Of whole slide microscopy. Others are set aside.
    rgb : bool
        Convert luminance and chrominance, as JPEG tiles mostly have them, to red,
        green and blue. Else values are as stored.
    chunk_bytes : int
        Decoded bytes of a chunk of `Level.array`, about: as many whole tiles as fit,
        and at least one.

    Raises
    ------
    GeometryError
        There is no level (``verdict="not a slide"``), or an object of a
        concatenation is missing (``verdict="incomplete"``).
    DicomReadError
        An object cannot be read as DICOM.
    """
    images: list[Image] = []
    aside: list[tuple[DicomObject, str]] = []
    for found, tiling in zip(objects, each(_tiling, objects), strict=True):
        if isinstance(tiling, str):
            aside.append((found, tiling))
        else:
            images.append((found, tiling))
    by_role: dict[str, list[Level]] = {}
    for level in _levels(images):
        role = level.tiling.role or "VOLUME"
        by_role.setdefault(role, []).append(
            replace(level, rgb=rgb, chunk_bytes=chunk_bytes)
        )
    levels = by_role.pop("VOLUME", [])
    if not levels:
        reasons = tuple(why for _, why in aside)
        said = f": {reasons[0]}" if reasons else ""
        msg = f"none of {len(objects)} objects is a level of a slide{said}"
        raise GeometryError(msg, verdict="not a slide", reasons=reasons or (msg,))
    single: dict[str, Level] = {}
    for role, alike in by_role.items():
        single[role.lower()] = alike[0]
        why = f"another {role.lower()} of the same slide"
        aside += [(part.found, why) for more in alike[1:] for part in more.parts]
    return Slide(
        tuple(levels),
        single.get("label"),
        single.get("overview"),
        single.get("thumbnail"),
        tuple(aside),
    )


def to_slide(manifest: Manifest, mirror: Mirror, **options: Any) -> Slide:
    """Make a slide of the one series of a manifest; see `slide_of`.

    Raises
    ------
    EmptySelection
        The manifest has no rows.
    RequestError
        It has several series.
    """
    check_rows(manifest)
    if len(manifest) > 1:
        msg = (
            f"a slide is one series; {len(manifest)} are selected. Select one, or use "
            "map_series with Series.to_slide"
        )
        raise RequestError(msg)
    return slide_of(list_objects(manifest.parts(), mirror).results, **options)


def _tiling(found: DicomObject) -> Tiling | str:
    source = Source(found.instance, found.mirror)
    try:
        return read_tiling(
            source.read, found.size, found.url, read_many=source.read_many
        )
    except GeometryError as error:
        return error.message


def _levels(images: Iterable[Image]) -> list[Level]:
    """Put objects together that hold one matrix; the largest first."""
    matrices: dict[Any, list[list[Image]]] = {}
    concatenations: dict[str, list[Image]] = {}
    for found, tiling in images:
        run = [(found, tiling)]
        if tiling.concatenation:
            if tiling.concatenation in concatenations:
                concatenations[tiling.concatenation] += run
                continue
            concatenations[tiling.concatenation] = run
        matrices.setdefault(_likeness(tiling), []).append(run)
    levels: list[Level] = []
    for runs in matrices.values():
        for run in runs:
            _check_complete(run)
        levels += _joined(runs)
    return sorted(levels, key=lambda level: -level.rows * level.columns)


def _likeness(tiling: Tiling) -> tuple[Any, ...]:
    tile = tiling.tile_rows, tiling.tile_columns
    kind = tiling.samples, tiling.dtype, tiling.role
    return tiling.rows, tiling.columns, tile, kind, tiling.matrix


def _check_complete(run: list[Image]) -> None:
    """Hold the objects of a concatenation against one another."""
    first = run[0][1]
    if not first.concatenation:
        return
    run.sort(key=lambda one: one[1].first_frame)
    due = 0
    for found, tiling in run:
        if tiling.first_frame != due:
            msg = (
                f"{found.url} begins with frame {tiling.first_frame} of its "
                f"concatenation where frame {due} is due: an object is missing"
            )
            raise GeometryError(msg, verdict="incomplete", reasons=(msg,))
        due += tiling.frames
    down, across = first.grid
    tiles = down * across * len(first.heights) * len(first.paths)
    if not first.sparse and due != tiles:
        msg = f"{run[-1][0].url}: {due} frames of {tiles} of a concatenation are there"
        raise GeometryError(msg, verdict="incomplete", reasons=(msg,))


def _joined(runs: list[list[Image]]) -> list[Level]:
    """Put matrices that differ in their paths or planes into one level."""
    groups: list[tuple[set[tuple[OpticalPath, float]], list[Image]]] = []
    for run in runs:
        held = {
            (path, height)
            for _, tiling in run
            for path in tiling.paths
            for height in tiling.heights
        }
        fitting = (group for group in groups if not group[0] & held)
        taken, members = next(fitting, (set(), []))
        if not members:
            groups.append((taken, members))
        taken.update(held)
        members.extend(run)
    return [_level(members) for _, members in groups]


def _level(members: list[Image]) -> Level:
    tilings = [tiling for _, tiling in members]
    paths = tuple(dict.fromkeys(path for one in tilings for path in one.paths))
    heights = tuple(sorted({height for one in tilings for height in one.heights}))
    parts = tuple(
        Tiled(
            found,
            tiling,
            tuple(heights.index(height) for height in tiling.heights),
            tuple(paths.index(path) for path in tiling.paths),
        )
        for found, tiling in members
    )
    return Level(parts, paths, heights)
