"""Series as volumes."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

from intake_idc.cohort.verbs.asking import Asking

if TYPE_CHECKING:
    import os
    from collections.abc import Mapping

    import numpy.typing as npt
    from xarray import DataArray, DataTree

    from intake_idc.lazy import Volumes
    from intake_idc.storage import Mirror

__all__ = ["Imaging"]

GEOMETRY = "volume_geometry_index"
"""The table that says which series are regular volumes, and where they lie."""
IMAGES = ("ct_index", "mr_index", "pt_index")
"""Tables that say how large their images are."""
IN_PLANE = ("Rows", "Columns", "PixelSpacing_row_mm", "PixelSpacing_col_mm")


class Imaging(Asking):
    """The verbs that make volumes."""

    def to_volume(
        self,
        *,
        rescale: bool = False,
        dtype: npt.DTypeLike | None = None,
        strict: bool = True,
        compute: bool = False,
        mirror: str | os.PathLike[str] | Mirror | None = None,
        chunk_bytes: int | str | None = None,
        name: str = "volume",
        use_index: bool = True,
    ) -> DataArray | DataTree:
        """Give the one series of the cohort as a volume, with coordinates in mm.

        >>> from intake_idc import open_idc
        >>> ct = open_idc(2, tables="sample").search(Modality="CT").to_volume()
        >>> ct.dims, ct.shape, ct.dtype, ct.attrs["verdict"]
        (('slice', 'row', 'column'), (3, 512, 512), dtype('uint16'), 'regular')

        Headers are read now, 16 KiB of each object; pixels when they are asked for.
        Where `volume_geometry_index` and ``ct_index``, ``mr_index`` or ``pt_index`` are
        at hand and call the series a regular volume, one header is read, or none where
        `dtype` is given.

        Parameters
        ----------
        rescale : bool
            Give output units instead of stored values: Hounsfield units in CT.
        dtype : dtype_like, optional
            Of the array, in place of the one that the headers ask for.
        strict : bool
            Refuse what is no regular volume. Without it, slices come with their
            positions, and without an affine.
        compute : bool
            Read at once, each object a single time, into numpy.
        mirror : optional
            Where the objects are read; see `resolve_mirror`.
        chunk_bytes : int or str, optional
            Bytes of one chunk: 32 MiB, but at least 16 slices and at most 100.
        name : str
            What the array is called.
        use_index : bool
            Take shape and affine from the index tables where they are at hand.

        Returns
        -------
        xarray.DataArray or xarray.DataTree
            See `intake_idc.lazy.to_volume`.

        Raises
        ------
        RequestError
            The cohort has not exactly one series; `volumes` gives one for each.
        GeometryError
            Under `strict`, the series is no regular volume; with the reasons.
        MissingError
            xarray is not installed.
        """
        from intake_idc import lazy

        manifest = self._located()
        published = None
        named = "SeriesInstanceUID" in manifest.columns
        if use_index and not compute and named and len(manifest) == 1:
            uid = manifest.table.column("SeriesInstanceUID")[0].as_py()
            published = _Published(self)(uid)
        return lazy.to_volume(
            manifest,
            self._mirror(mirror),
            rescale=rescale,
            dtype=dtype,
            strict=strict,
            compute=compute,
            chunk_bytes=chunk_bytes,
            name=name,
            published=published,
        )

    def volumes(
        self,
        *,
        rescale: bool = False,
        dtype: npt.DTypeLike | None = None,
        strict: bool = True,
        compute: bool = False,
        mirror: str | os.PathLike[str] | Mirror | None = None,
        chunk_bytes: int | str | None = None,
        name: str = "volume",
        use_index: bool = True,
    ) -> Volumes:
        """Give a mapping from SeriesInstanceUID to volume, in the order of `keys`.

        Each volume is made when it is asked for; nothing is read before.

        >>> from intake_idc import open_idc
        >>> images = open_idc(2, tables="sample").search(Modality=["CT", "MR"])
        >>> [volume.shape for volume in images.volumes().values()]
        [(3, 512, 512), (4, 240, 240)]

        Parameters and errors of each volume are those of `to_volume`.
        """
        from intake_idc import lazy

        options = {
            "rescale": rescale,
            "dtype": dtype,
            "strict": strict,
            "compute": compute,
            "chunk_bytes": chunk_bytes,
            "name": name,
        }
        published = _Published(self) if use_index and not compute else None
        return lazy.Volumes(self._located(), self._mirror(mirror), options, published)


@dataclass(frozen=True)
class _Published:
    """What the index tables say of the geometry of series; asked once, when needed."""

    cohort: Imaging

    def __call__(self, uid: str) -> Mapping[str, Any] | None:
        """Give the columns of a series that `volume.from_index` takes."""
        return self._rows.get(uid)

    @cached_property
    def _rows(self) -> dict[str, dict[str, Any]]:
        cohort = self.cohort
        release = cohort.rows.of_tables
        if release.local_table(GEOMETRY) is None:
            return {}
        # Tables are those of the newest release: of series that it does not hold
        # any more, or holds with other bytes, they say nothing.
        current = cohort.manifest(["SeriesInstanceUID"]).table
        if "row_source" not in current.column_names:
            return {}
        sources = current.column("row_source").to_pylist()
        uids = current.column("SeriesInstanceUID").to_pylist()
        newest = {u for u, s in zip(uids, sources, strict=True) if s == "idc_index"}
        geometry = {
            row["SeriesInstanceUID"]: row
            for row in cohort.index_table(GEOMETRY).to_pylist()
            if row["SeriesInstanceUID"] in newest
        }
        found: dict[str, dict[str, Any]] = {}
        for table in IMAGES:
            if release.local_table(table) is None:
                continue
            units = ["Units"] if "Units" in release.columns_of(table) else []
            columns = ["SeriesInstanceUID", *IN_PLANE, *units]
            images = cohort.index_table(table, columns)
            for row in images.to_pylist():
                uid = row["SeriesInstanceUID"]
                if uid in geometry:
                    found[uid] = {**geometry[uid], **row}
        return found
