"""Slides, and frames of whatever has any."""

from __future__ import annotations

from typing import TYPE_CHECKING

from intake_idc.cohort.verbs.base import Base

if TYPE_CHECKING:
    import os

    from intake_idc.lazy import InstanceBag, OnError, Slide
    from intake_idc.storage import Mirror

__all__ = ["Slides"]


class Slides(Base):
    """The verbs that read frames, and slides made of them."""

    def to_slide(
        self,
        *,
        rgb: bool = True,
        chunk_bytes: int | None = None,
        mirror: str | os.PathLike[str] | Mirror | None = None,
    ) -> Slide:
        """Give the one series of this cohort as a slide: levels of lazy arrays.

        The headers of its objects are read now, side by side, and no pixels.

        >>> from intake_idc import open_idc
        >>> slide = open_idc(2, tables="sample").search(Modality="SM").to_slide()
        >>> slide.levels[0]
        <Level 50 x 50 x 3 uint8, 0.000499 mm>
        >>> slide.levels[0].region(5, 5, 20, 30).shape
        (20, 30, 3)

        Parameters
        ----------
        rgb : bool
            Tiles that lie as luminance and chrominance, as JPEG has them, become red,
            green and blue. Else values are as stored.
        chunk_bytes : int, optional
            Decoded bytes of a chunk, about: 8 MiB, in whole tiles.
        mirror : optional
            Where the objects are read; see `resolve_mirror`.

        Raises
        ------
        EmptySelection
            Nothing is selected, or everything without `all`.
        RequestError
            Several series are selected.
        GeometryError
            The series is no slide, or an object of a concatenation is missing.
        DicomReadError
            An object cannot be read as DICOM.
        """
        from intake_idc import lazy

        sized = {} if chunk_bytes is None else {"chunk_bytes": chunk_bytes}
        return lazy.to_slide(self._located(), self._mirror(mirror), rgb=rgb, **sized)

    def frames(
        self,
        *,
        partition_bytes: int | str | None = None,
        most_frames: int | None = None,
        mirror: str | os.PathLike[str] | Mirror | None = None,
        on_error: OnError = "raise",
    ) -> InstanceBag:
        """Give a Dask bag of `intake_idc.lazy.Frames`: every frame once, in order.

        Each is a run of frames of one object, not yet read, with ``pixels()``. Objects
        without pixels, such as reports, are passed over. An object that is larger than
        a partition is shared between several.

        >>> from intake_idc import open_idc
        >>> sample = open_idc(2, tables="sample").search(Modality="SM")
        >>> bag = sample.frames(partition_bytes="4 kB")
        >>> bag.map(len).sum().compute()
        25

        Parameters
        ----------
        partition_bytes : int or str, optional
            Encoded bytes in one partition, 128 MiB by default.
        most_frames : int, optional
            Frames of one run; by default all of an object that are in a partition.
        mirror : optional
            Where the objects are read; see `resolve_mirror`.
        on_error : "raise", "skip" or "collect"
            As in `map_objects`.

        Raises
        ------
        EmptySelection
            Nothing is selected, or everything without `all`.
        """
        from intake_idc import lazy

        return lazy.frames(
            self._located(),
            self._mirror(mirror),
            partition_bytes=partition_bytes,
            most_frames=most_frames,
            on_error=on_error,
        )
