"""What a cohort holds, brought together with what the tables state."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any, NamedTuple

from intake_idc.citations.bibliography import parse
from intake_idc.citations.statements import Lookup
from intake_idc.citations.texts import dois, one_line
from intake_idc.citations.values import Citations, Source, Uncited

if TYPE_CHECKING:
    from collections.abc import Iterable

    from intake_idc.citations.statements import Stated

__all__ = ["Group", "collect"]


class Group(NamedTuple):
    """Series of a cohort that say the same of where they come from."""

    collection_id: str | None
    """The collection."""
    source_DOI: str | None  # noqa: N815  (published spelling)
    """The cell of the index: no DOI, one, or several."""
    license_short_name: str | None
    """Licence, as the index says."""
    series: int
    """Number of series."""
    size: int
    """Bytes."""


def collect(
    groups: Iterable[Group],
    stated: Iterable[Stated],
    idc_version: int,
    tables: str = "",
) -> Citations:
    """Bring together what a cohort holds and what the tables say of it.

    A series with several DOIs counts for each of its sources, and once in the total.

    Parameters
    ----------
    groups : iterable of Group
        The series of the cohort.
    stated : iterable of Stated
        What the tables say.
    idc_version : int
        The release.
    tables : str
        Name of the tables; a path has no place in a notice.
    """
    lookup = Lookup(stated)
    found: dict[object, Source] = {}
    missing: dict[object, Uncited] = {}
    series = size = 0
    for group in groups:
        series += group.series
        size += group.size
        for doi in dois(group.source_DOI) or (None,):
            one = lookup.find(group.collection_id, doi)
            if one is None:
                candidates = lookup.dois_of(group.collection_id)
                gone = _uncited(group, doi, candidates)
                _put(missing, _order_uncited(gone), gone)
            else:
                source = _source(group, one)
                _put(found, _identity(source), source)
    return Citations(
        sources=tuple(sorted(found.values(), key=_order)),
        uncited=tuple(sorted(missing.values(), key=_order_uncited)),
        series=series,
        size=size,
        idc_version=idc_version,
        tables=tables,
    )


def _uncited(group: Group, doi: str | None, candidates: tuple[str, ...]) -> Uncited:
    return Uncited(
        collection_id=group.collection_id,
        doi=doi,
        license_short_name=group.license_short_name or None,
        series=group.series,
        size=group.size,
        candidates=candidates,
    )


def _source(group: Group, stated: Stated) -> Source:
    known = parse(stated.citation, stated.doi)
    # The tables' own titles miss words of the citation, or say some twice.
    title = known.get("title") or stated.title or one_line(group.collection_id or "")
    url = stated.url or (f"https://doi.org/{stated.doi}" if stated.doi else None)
    return Source(
        doi=stated.doi,
        title=title,
        source_type=stated.source_type,
        collections=(group.collection_id,) if group.collection_id else (),
        url=url,
        license_short_name=group.license_short_name or stated.license_short_name,
        license_long_name=stated.license_long_name,
        license_url=stated.license_url,
        citation=stated.citation,
        series=group.series,
        size=group.size,
        stated_short_name=stated.license_short_name,
    )


def _identity(source: Source) -> tuple[object, ...]:
    named = source.doi or (source.url, source.title, source.citation)
    licence = (
        source.license_short_name,
        source.stated_short_name,
        source.license_long_name,
        source.license_url,
    )
    return named, licence


def _put(found: dict[object, Any], key: object, value: Any) -> None:
    """Put a value under a key, or add its series to what is there."""
    if key not in found:
        found[key] = value
        return
    held = found[key]
    changed = {"series": held.series + value.series, "size": held.size + value.size}
    if isinstance(held, Source):
        names = {*held.collections, *value.collections}
        changed["collections"] = tuple(sorted(names))
    found[key] = replace(held, **changed)


def _order(source: Source) -> tuple[str, ...]:
    return (
        source.text.casefold(),
        source.doi or "",
        source.license_short_name or "",
        source.license_url or "",
    )


def _order_uncited(one: Uncited) -> tuple[str, ...]:
    return one.collection_id or "", one.doi or "", one.license_short_name or ""
