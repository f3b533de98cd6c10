"""From images to their annotations, and back."""

from __future__ import annotations

from typing import TYPE_CHECKING

from intake_idc.cohort.verbs.base import Base

if TYPE_CHECKING:
    import os
    from collections.abc import Sequence

    import pyarrow as pa
    from typing_extensions import Self

    from intake_idc.cohort import pairs
    from intake_idc.storage import Mirror

__all__ = ["Annotating"]


class Annotating(Base):
    """The verbs between images and annotations."""

    def references(
        self,
        *,
        modality: str | Sequence[str] = ("SEG", "RTSTRUCT", "SR", "ANN"),
        headers: pairs.Headers = "auto",
        mirror: str | os.PathLike[str] | Mirror | None = None,
    ) -> pa.Table:
        """Tell which series the annotations of the cohort are of.

        Parameters
        ----------
        modality : str or sequence of str
            Modalities of annotations; other series of the cohort have no row.
        headers : "auto", True or False
            "auto" asks the index tables `seg_index`, `rtstruct_index` and `ann_index`,
            and reads the headers of what they do not tell: reports, and where a table
            is not at hand. True reads headers alone, of every object. False opens no
            object. What a table says of a superseded series is true of its newest
            bytes.
        mirror : str, path or Mirror, optional
            Where headers are read.

        Returns
        -------
        pyarrow.Table
            A row for each annotation and series that it is of: ``SeriesInstanceUID``,
            ``crdc_series_uuid`` and ``Modality`` of the annotation,
            ``referenced_SeriesInstanceUID``, and ``told_by``: the table, or "header".
            An annotation that nothing is told of has one row, with null in both.

        Raises
        ------
        TableNotFound
            ``headers`` is False, and a table is not at hand.
        DicomReadError, StorageError
            A header cannot be read.
        """
        from intake_idc.cohort import pairs

        return pairs.references(self, modality, headers, mirror)

    def annotations(
        self,
        modality: str | Sequence[str] = ("SEG", "RTSTRUCT", "SR", "ANN"),
        *,
        headers: pairs.Headers = "auto",
        mirror: str | os.PathLike[str] | Mirror | None = None,
    ) -> Self:
        """Give the annotations that are of series of this cohort, of the same release.

        What no table tells, which is every SR, is looked for among the series of the
        same patients, and its header is read. What is not told even then is listed in
        `problems`, so that none is lost unseen. The parameters are those of
        `references`.
        """
        from intake_idc.cohort import pairs

        return pairs.annotations_of(self, modality, headers, mirror)

    def sources(
        self,
        *,
        modality: str | Sequence[str] = ("SEG", "RTSTRUCT", "SR", "ANN"),
        headers: pairs.Headers = "auto",
        mirror: str | os.PathLike[str] | Mirror | None = None,
    ) -> Self:
        """Give the series that the annotations of this cohort are of.

        A report may be of a segmentation too, which then is among them. Annotations of
        which nothing is told, and sources that the release does not hold, are listed
        in `problems`. The parameters are those of `references`.
        """
        from intake_idc.cohort import pairs

        return pairs.sources_of(self, modality, headers, mirror)
