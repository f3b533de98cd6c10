"""The sources of a cohort as values, and every form they are given in."""

from __future__ import annotations

import html
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any, overload

from intake_idc import display
from intake_idc.citations import notice as notices
from intake_idc.citations.bibliography import (
    IDC_PAPER,
    Reference,
    entry_key,
    paper_text,
    parse,
)
from intake_idc.citations.licences import licences_differ

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["Citations", "Conflict", "Source", "Uncited"]


@dataclass(frozen=True)
class Source:
    """A publication that series of a cohort come from, under one licence."""

    doi: str | None
    """DOI, in lower case; None where the tables give none."""
    title: str
    """Title; the name of the collection where the tables give none."""
    source_type: str | None
    """``original_data`` or ``analysis_result``, where the tables say so."""
    collections: tuple[str, ...]
    """Collections of the cohort that have series of this source, sorted."""
    url: str | None
    """Where the source is published."""
    license_short_name: str | None
    """Licence of the series, as the index says; as the source says where it does
    not."""
    license_long_name: str | None
    """Long name of the licence, as the source states it."""
    license_url: str | None
    """URL of the licence, as the source states it."""
    citation: str
    """Citation without markup; empty where the tables give none."""
    series: int
    """Series of the cohort."""
    size: int
    """Bytes of these series."""
    stated_short_name: str | None = None
    """Short name of the licence, as the source states it."""

    @property
    def conflicting(self) -> bool:
        """Whether the statements of the licence contradict each other."""
        return licences_differ(
            self.license_short_name,
            self.stated_short_name,
            self.license_long_name,
            self.license_url,
        )

    @property
    def text(self) -> str:
        """The citation; where there is none, what is known of the source."""
        if self.citation:
            return self.citation
        return ". ".join(part for part in (self.title, self.url) if part)

    @cached_property
    def reference(self) -> Reference:
        """The citation as a bibliographic entry.

        Authors, year, version and publisher are there only where the citation surely
        says them; else the whole of it is the note.
        """
        known = parse(self.citation, self.doi)
        whole = bool(known) and not known["abridged"]
        return Reference(
            key=entry_key(self.doi, self.url, self.title),
            doi=self.doi,
            url=self.url,
            license=self.license_short_name,
            note=None if whole else self.citation or None,
            **{"title": self.title, **known},
        )


@dataclass(frozen=True)
class Uncited:
    """Series of a cohort of which the tables do not say whom to cite."""

    collection_id: str | None
    """The collection."""
    doi: str | None
    """A DOI that the tables do not know; None where the series has none."""
    license_short_name: str | None
    """Licence, as the index says."""
    series: int
    """Number of series."""
    size: int
    """Bytes."""
    candidates: tuple[str, ...] = ()
    """DOIs of the collection's sources: it may be one of them."""

    def __str__(self) -> str:
        where = self.collection_id or "no collection"
        why = f"nothing is known of {self.doi}" if self.doi else "no DOI is given"
        licence = self.license_short_name or "unknown licence"
        amount = f"{display.count_text(self.series, 'series')}, {self.size:,} bytes"
        maybe = f"; its collection has {', '.join(self.candidates)}"
        return f"{where}: {amount}, {licence}; {why}{maybe if self.candidates else ''}"


@dataclass(frozen=True)
class Conflict:
    """Statements of one source's licence that contradict each other."""

    source: Source
    """The source."""
    statements: tuple[tuple[str, str], ...] = field(default=())
    """Who says what."""

    def __str__(self) -> str:
        said = "; ".join(f"{who}: {what}" for who, what in self.statements)
        name = self.source.doi or self.source.title
        return f"{', '.join(self.source.collections)} ({name}): {said}"


@dataclass(frozen=True)
class Citations(Sequence[Source]):
    """Whom to cite for a cohort, and under which licences its series stand.

    A sequence of `Source`, in the order of their citations.
    """

    sources: tuple[Source, ...]
    """The sources, one for each publication and licence."""
    uncited: tuple[Uncited, ...]
    """Series of which the tables do not say whom to cite."""
    series: int
    """Series of the cohort."""
    size: int
    """Bytes of the cohort."""
    idc_version: int
    """The release."""
    tables: str = ""
    """Name of the tables that this was read from."""

    def __len__(self) -> int:
        return len(self.sources)

    @overload
    def __getitem__(self, index: int) -> Source: ...

    @overload
    def __getitem__(self, index: slice) -> tuple[Source, ...]: ...

    def __getitem__(self, index: int | slice) -> Source | tuple[Source, ...]:
        return self.sources[index]

    @property
    def dois(self) -> list[str]:
        """DOI of each source that has one, each once, in order."""
        return list(dict.fromkeys(s.doi for s in self.sources if s.doi is not None))

    @cached_property
    def conflicts(self) -> tuple[Conflict, ...]:
        """Sources whose licence is stated in contradicting ways."""
        found = []
        for source in self.sources:
            if source.conflicting:
                said = {
                    "index": source.license_short_name,
                    "source, short name": source.stated_short_name,
                    "source, long name": source.license_long_name,
                    "source, URL": source.license_url,
                }
                kept = tuple((who, what) for who, what in said.items() if what)
                found.append(Conflict(source, kept))
        return tuple(found)

    @property
    def licenses(self) -> dict[str | None, int]:
        """Series by ``license_short_name``; one with two sources counts for each."""
        found: dict[str | None, int] = {}
        listed: tuple[Source | Uncited, ...] = (*self.sources, *self.uncited)
        for one in listed:
            name = one.license_short_name
            found[name] = found.get(name, 0) + one.series
        return dict(sorted(found.items(), key=lambda item: item[0] or "~"))

    @property
    def references(self) -> list[Reference]:
        """A bibliographic entry for each publication, and the IDC paper at the end."""
        found: dict[str, Reference] = {}
        for source in self.sources:
            found.setdefault(source.reference.key, source.reference)
        found[IDC_PAPER.key] = IDC_PAPER
        return list(found.values())

    def text(self) -> str:
        """Give the citations, one a line, and that of the IDC paper at the end."""
        lines = dict.fromkeys([*(s.text for s in self.sources), paper_text()])
        return "".join(f"{line}\n" for line in lines)

    def bibtex(self) -> str:
        """Give a BibTeX file: an entry for each publication, and the IDC paper.

        An entry's key is its DOI. Authors are there only where the citation surely
        says them; else ``note`` holds the whole of it.
        """
        return "\n".join(f"{entry.bibtex()}\n" for entry in self.references)

    def csl(self) -> list[dict[str, Any]]:
        """Give the same as CSL-JSON items, fit for `json.dumps`."""
        return [entry.csl() for entry in self.references]

    def notice(self, manifest: str | None = None) -> str:
        """Give a NOTICE text: by licence, what the series are and whom to cite.

        It has no date and no path, so that the same cohort gives the same bytes.

        Parameters
        ----------
        manifest : str, optional
            Digest of the cohort's manifest, which names the cohort.
        """
        return notices.notice_text(self, manifest)

    def _items(self) -> list[tuple[str, object]]:
        licences = ", ".join(
            f"{name or 'unknown'} ({count:,})" for name, count in self.licenses.items()
        )
        items: list[tuple[str, object]] = [
            ("sources", f"{len(self):,}"),
            ("series", f"{self.series:,}"),
            ("size", display.bytes_text(self.size)),
            ("licences", licences or "-"),
            *[("conflicting", str(conflict)) for conflict in self.conflicts],
            *[("uncited", str(one)) for one in self.uncited],
        ]
        return [*items, ("tables", self.tables or "-")]

    @property
    def _title(self) -> str:
        return f"Citations of IDC release {self.idc_version}"

    def __str__(self) -> str:
        return f"{display.pairs(self._title, self._items())}\n\n{self.text()}"

    def __repr__(self) -> str:
        what = display.count_text(len(self), "source")
        series = display.count_text(self.series, "series")
        return f"<{self._title}: {what} of {series}>"

    def _repr_html_(self) -> str:
        header = ("Citation", "Licence", "Collections", "Series", "Size")
        names = "".join(f"<th>{name}</th>" for name in header)
        body = "".join(f"<tr>{''.join(_cells(s))}</tr>" for s in self.sources)
        paper = f"<p>{html.escape(paper_text())}</p>"
        summary = display.pairs_html(self._title, self._items())
        return f"{summary}<table><tr>{names}</tr>{body}</table>{paper}"


def _link(url: str | None, text: str) -> str:
    shown = html.escape(text)
    if url and re.match(r"https?://", url):
        return f'<a href="{html.escape(url)}">{shown}</a>'
    return shown


def _cells(source: Source) -> Iterator[str]:
    licence = source.license_short_name or "unknown"
    if source.conflicting:
        licence += " (conflicting)"
    texts = (
        _link(source.url, source.text),
        _link(source.license_url, licence),
        html.escape(", ".join(source.collections)),
    )
    amounts = f"{source.series:,}", display.bytes_text(source.size)
    yield from (f"<td style='text-align:left'>{text}</td>" for text in texts)
    style = "text-align:right;white-space:nowrap"
    yield from (f"<td style='{style}'>{amount}</td>" for amount in amounts)
