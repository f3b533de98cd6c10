"""Sets of series, samples, parts, and groups that are complete."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from intake_idc.cohort.verbs.base import Base

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from typing_extensions import Self

    from intake_idc.cohort import algebra

__all__ = ["Combining"]


class Combining(Base):
    """The verbs that make other sets of series."""

    def union(self, other: Self, *, by: algebra.By = "crdc_series_uuid") -> Self:
        """Give the series of both: these in their order, then what the other has more.

        ``one | other`` is the same. The result is a list of this cohort's release. Of
        another release it holds the bytes that the other cohort has; of these the
        index is known as far as a manifest goes.

        Parameters
        ----------
        other : Cohort
            Of this release or another, a question or a list.
        by : "crdc_series_uuid" or "SeriesInstanceUID"
            What makes two series the same: their bytes, or their name. By name, the
            bytes of this cohort are taken.

        Raises
        ------
        EmptySelection
            Either is everything without `all`.
        RequestError
            Each is read from a mirror of its own; see `reading_from`.

        Examples
        --------
        >>> from intake_idc import open_idc
        >>> sample = open_idc(2, tables="sample")
        >>> both = sample.search(Modality="SEG") | sample.search(Modality=["CT", "SEG"])
        >>> both.table["Modality"].to_pylist()
        ['SEG', 'CT']
        """
        from intake_idc.cohort import algebra

        return algebra.union(self, other, by)

    def intersection(self, other: Self, *, by: algebra.By = "crdc_series_uuid") -> Self:
        """Give the series that the other cohort has too, in this order.

        ``one & other`` is the same. Two questions to one release give a question, with
        the conditions of both; all else gives a list, which may be empty. ``by`` is
        that of `union`; mirror and bytes are those of this cohort.

        >>> from intake_idc import open_idc
        >>> idc = open_idc(25)
        >>> idc.search(Modality="CT") & idc.search(collection_id="nlst")
        <Cohort of IDC release 25: Modality = 'CT' and collection_id = 'nlst'>
        """
        from intake_idc.cohort import algebra

        return algebra.intersection(self, other, by)

    def difference(self, other: Self, *, by: algebra.By = "crdc_series_uuid") -> Self:
        """Give the series that the other cohort does not have: a list, in this order.

        ``one - other`` is the same; ``by`` is that of `union`. `diff` is another thing:
        it compares releases.

        Raises
        ------
        EmptySelection
            This is everything without `all`.

        Examples
        --------
        >>> from intake_idc import open_idc
        >>> new, old = (open_idc(v, tables="sample").all() for v in (2, 1))
        >>> (new - old).unique("Modality")  # the CT has other bytes
        ['CT', 'SEG', 'SM']
        >>> new.difference(old, by="SeriesInstanceUID").unique("Modality")
        ['SEG', 'SM']
        """
        from intake_idc.cohort import algebra

        return algebra.difference(self, other, by)

    def __or__(self, other: object) -> Self:
        if not isinstance(other, type(self)):
            return NotImplemented
        return self.union(other)

    def __and__(self, other: object) -> Self:
        if not isinstance(other, type(self)):
            return NotImplemented
        return self.intersection(other)

    def __sub__(self, other: object) -> Self:
        if not isinstance(other, type(self)):
            return NotImplemented
        return self.difference(other)

    def sample(self, n: int, *, seed: int = 0) -> Self:
        """Give n series, drawn by the seed, as a list in the published order.

        The same call gives the same series on every machine. Which they are follows
        from the seed and their names alone: of a cohort that has grown, or of another
        release, most are the same, and a larger sample holds the smaller.

        Raises
        ------
        RequestError
            The cohort has fewer series.
        EmptySelection
            It has none, or is everything without `all`.

        Examples
        --------
        >>> from intake_idc import open_idc
        >>> ct = open_idc(25).search(collection_id="rider_pilot", Modality="CT")
        >>> few, more = ct.sample(5), ct.sample(50)
        >>> len(few), len(few - more)
        (5, 0)
        """
        from intake_idc.cohort import splitting

        return splitting.sample(self, n, seed)

    def split_patients(
        self,
        parts: Mapping[str, float],
        *,
        by: str | Sequence[str] | None = None,
        seed: int = 0,
    ) -> dict[str, Self]:
        """Divide the cohort, so that no patient is in two parts.

        A patient is a ``PatientID``, also where several collections have it. Series
        without one go with their study. Every series is in exactly one part; a part of
        few patients may be empty.

        Parameters
        ----------
        parts : dict
            Names of the parts, and their fractions of the patients, which add up to 1.
            Each part is right to less than one patient.
        by : str or list of str, optional
            Columns by which the parts are to be alike: patients who have the same set
            of values are divided by the same fractions, to less than two patients.
        seed : int
            Another seed gives another division; the same one the same, everywhere.

        Returns
        -------
        dict of str to Cohort
            Lists, each in the published order.

        Raises
        ------
        RequestError
            A fraction is not above 0, or they do not add up to 1.
        UnknownColumn
            There is no such column.
        EmptySelection
            The cohort has no series, or is everything without `all`.

        Examples
        --------
        >>> from intake_idc import open_idc
        >>> ct = open_idc(25).search(collection_id="nsclc_radiomics", Modality="CT")
        >>> parts = ct.split_patients({"train": 0.8, "test": 0.2})
        >>> {name: part.counts()["patients"] for name, part in parts.items()}
        {'train': 338, 'test': 84}
        """
        from intake_idc.cohort import splitting

        return splitting.split_patients(self, parts, by, seed)

    def require_all_on(self, on: str | Sequence[str], /, **columns: Any) -> Self:
        """Narrow by columns as `search`, and keep the groups that have every value.

        Of several columns, a group must have every combination of their values. A
        regular expression is fulfilled by any series that it matches. Series without a
        value in ``on`` belong to no group. The result is a list, which may be empty.

        Parameters
        ----------
        on : str or list of str
            What makes a group. A ``PatientID`` may occur in several collections:
            ``["collection_id", "PatientID"]`` is one patient of one collection.
        **columns
            Conditions; see `search`.

        Raises
        ------
        RequestError
            No column was named but those of ``on``.

        Examples
        --------
        >>> from intake_idc import open_idc
        >>> pilot = open_idc(25).search(collection_id="rider_pilot")
        >>> pairs = pilot.require_all_on("StudyInstanceUID", Modality=["CT", "SEG"])
        >>> pairs.counts()["studies"], pilot.counts()["studies"]
        (17, 154)
        """
        from intake_idc.cohort import pairs

        return pairs.require_all_on(self, on, columns)
