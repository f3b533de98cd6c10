"""What the index tables state of sources."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from intake_idc.citations.licences import licences_differ
from intake_idc.citations.texts import clean, dois

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

__all__ = ["Lookup", "Stated", "conflicting_groups", "read_stated"]


@dataclass(frozen=True)
class Stated:
    """One source of one collection, as a table states it."""

    collection_id: str | None
    """The collection; None in the table of analysis results."""
    doi: str | None
    """DOI, in lower case."""
    title: str
    """Title, cleaned; may be empty."""
    source_type: str | None
    """``original_data`` or ``analysis_result``, where the table says so."""
    url: str | None
    """Where the source is published."""
    license_short_name: str | None
    """Licence, short."""
    license_long_name: str | None
    """Licence, long."""
    license_url: str | None
    """Licence, its URL."""
    citation: str
    """Citation, cleaned; may be empty."""


def _get(row: Mapping[str, Any], name: str) -> Any:
    """Give a field by its name, in whatever spelling: releases 23 and 24 differ."""
    return next((row[key] for key in row if key.lower() == name), None)


def _text_of(row: Mapping[str, Any], name: str) -> str | None:
    return clean(_get(row, name)) or None


def read_stated(
    collections: Iterable[Mapping[str, Any]],
    analysis_results: Iterable[Mapping[str, Any]] = (),
) -> list[Stated]:
    """Give what rows of the two tables say of sources.

    Parameters
    ----------
    collections : iterable of mapping
        Rows of `collections_index`.
    analysis_results : iterable of mapping
        Rows of `analysis_results_index`.
    """
    results = [_stated(None, row, "analysis_result") for row in analysis_results]
    analysed = {result.doi for result in results}
    found: list[Stated] = []
    for row in collections:
        name = _get(row, "collection_id")
        for source in _get(row, "sources") or ():
            one = _stated(name, source, _text_of(source, "source_type"))
            if one.source_type is None and one.doi is not None:
                # The tables of release 23 say it in this way only.
                kind = "analysis_result" if one.doi in analysed else "original_data"
                one = replace(one, source_type=kind if analysed else None)
            found.append(one)
    return found + results


def _stated(
    collection_id: str | None, row: Mapping[str, Any], source_type: str | None
) -> Stated:
    licence = _get(row, "license") or row
    found = dois(_get(row, "source_doi"))
    title = _text_of(row, "source_title") or _text_of(row, "analysis_result_title")
    return Stated(
        collection_id=collection_id,
        doi=found[0] if found else None,
        title=title or "",
        source_type=source_type,
        url=_text_of(row, "source_url"),
        license_short_name=_text_of(licence, "license_short_name"),
        license_long_name=_text_of(licence, "license_long_name"),
        license_url=_text_of(licence, "license_url"),
        citation=clean(_get(row, "citation")),
    )


class Lookup:
    """Finds what is stated of a collection and a DOI."""

    def __init__(self, stated: Iterable[Stated]) -> None:
        self._exact: dict[tuple[str | None, str | None], list[Stated]] = {}
        self._by_doi: dict[str, Stated] = {}
        self._dois: dict[str | None, dict[str, None]] = {}
        for one in stated:
            self._exact.setdefault((one.collection_id, one.doi), []).append(one)
            if one.doi is not None:
                self._by_doi.setdefault(one.doi, one)
                self._dois.setdefault(one.collection_id, {})[one.doi] = None

    def dois_of(self, collection_id: str | None) -> tuple[str, ...]:
        """Give the DOIs of a collection's sources."""
        return tuple(sorted(self._dois.get(collection_id, {})))

    def find(self, collection_id: str | None, doi: str | None) -> Stated | None:
        """Give the statement of this collection, else that of the DOI anywhere."""
        exact = self._exact.get((collection_id, doi), [])
        if len(exact) == 1 or (exact and doi is not None):
            return exact[0]
        return self._by_doi.get(doi) if doi is not None else None


def conflicting_groups(
    groups: Iterable[tuple[str | None, str | None, str | None]],
    stated: Iterable[Stated],
) -> list[tuple[str | None, str | None, str | None]]:
    """Give those groups whose licence is stated in contradicting ways.

    Parameters
    ----------
    groups : iterable of tuple
        ``collection_id``, ``source_DOI`` and ``license_short_name`` of series.
    stated : iterable of Stated
        What the tables say.
    """
    lookup = Lookup(stated)
    found = []
    for collection_id, cell, licence in groups:
        for doi in dois(cell) or (None,):
            one = lookup.find(collection_id, doi)
            if one is not None and licences_differ(
                licence,
                one.license_short_name,
                one.license_long_name,
                one.license_url,
            ):
                found.append((collection_id, cell, licence))
                break
    return found
