"""Bibliographic entries, read from citations where that is sure; BibTeX, CSL-JSON."""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from typing import Any, NamedTuple
from urllib.parse import quote

from intake_idc.citations.texts import one_line

__all__ = ["IDC_PAPER", "Name", "Reference", "entry_key", "paper_text", "parse"]


class Name(NamedTuple):
    """An author."""

    family: str
    """Family name, or the whole name of a group."""
    given: str = ""
    """Given names or initials; empty for a group."""


@dataclass(frozen=True)
class Reference:
    """A bibliographic entry: only what is known."""

    key: str
    """A key of its own, the same in every bibliography: the DOI where there is one."""
    title: str
    """Title."""
    doi: str | None = None
    """DOI, in lower case."""
    url: str | None = None
    """Where it leads."""
    authors: tuple[Name, ...] = ()
    """Authors, in order; empty where they are not surely known."""
    abridged: bool = False
    """Whether authors were left out between the last and the one before."""
    year: int | None = None
    """Year of publication."""
    publisher: str | None = None
    """Publisher of a data set."""
    version: str | None = None
    """Version of a data set."""
    journal: str | None = None
    """Journal of an article; None is a data set."""
    volume: str | None = None
    """Volume of the journal."""
    issue: str | None = None
    """Issue of the volume."""
    pages: str | None = None
    """Pages, or number of the article."""
    license: str | None = None
    """Licence of a data set."""
    note: str | None = None
    """The whole citation, where the fields do not hold all of it."""

    def bibtex(self) -> str:
        """Give one BibTeX entry."""
        names = [_bibtex_name(name) for name in self.authors]
        if self.abridged:
            # BibTeX omits authors at the end only; the note has the last one.
            names[-1] = "others"
        fields = {
            "author": " and ".join(names),
            # Braces of its own: a style would else change upper and lower case.
            "title": f"{{{_escaped(self.title)}}}",
            "year": str(self.year or ""),
            "journal": _escaped(self.journal or ""),
            "volume": _escaped(self.volume or ""),
            "number": _escaped(self.issue or ""),
            "pages": _escaped(self.pages or ""),
            "publisher": _escaped(self.publisher or ""),
            "version": _escaped(self.version or ""),
            "doi": _verbatim(self.doi or ""),
            "url": _verbatim(self.url or ""),
            "copyright": _escaped(self.license or ""),
            "note": _escaped(self.note or ""),
        }
        kind = "misc" if self.journal is None else "article"
        lines = [f"  {name} = {{{value}}}," for name, value in fields.items() if value]
        return "\n".join([f"@{kind}{{{self.key},", *lines, "}"])

    def csl(self) -> dict[str, Any]:
        """Give one item of CSL-JSON."""
        authors: list[dict[str, str]] = [
            {"family": n.family, "given": n.given} if n.given else {"literal": n.family}
            for n in self.authors
        ]
        if self.abridged:
            # What pandoc writes for the "others" of BibTeX, and citeproc knows.
            authors[-1] = {"literal": "others"}
        item = {
            "id": self.key,
            "type": "dataset" if self.journal is None else "article-journal",
            "title": self.title,
            "author": authors,
            "issued": {"date-parts": [[self.year]]} if self.year else None,
            "container-title": self.journal,
            "volume": self.volume,
            "issue": self.issue,
            "page": self.pages,
            "publisher": self.publisher,
            "version": self.version,
            "DOI": self.doi,
            "URL": self.url,
            "note": self.note,
        }
        return {name: value for name, value in item.items() if value}


_ESCAPES = {
    "\\": r"\textbackslash{}",
    "{": r"\textbraceleft{}",
    "}": r"\textbraceright{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    **{sign: f"\\{sign}" for sign in "&%$#_"},
}
"""BibTeX counts braces even behind a backslash, so none is left alone."""


def _escaped(text: str) -> str:
    return "".join(_ESCAPES.get(c, c) for c in one_line(text))


def _verbatim(text: str) -> str:
    """Give a DOI or URL as BibTeX takes it: with no escape, and no lone brace."""
    return quote(text, safe=":/?#[]@!$&'()*+,;=%~-._")


def _bibtex_name(name: Name) -> str:
    if not name.given:
        return f"{{{_escaped(name.family)}}}"
    family = _escaped(name.family)
    if re.search(r"\band\b", family, re.IGNORECASE):
        family = f"{{{family}}}"
    return f"{family}, {_escaped(name.given)}"


_CITATION = re.compile(
    r"(?P<authors>.+?) \((?P<year>(?:19|20)\d\d)\)\. "
    r"(?P<title>.+?)(?: \(Version (?P<version>[^()]+)\))? \[Data ?set\]\. "
    r"(?P<publisher>[^.]+)\. https?://(?:dx\.)?doi\.org/(?P<doi>\S+)",
    re.IGNORECASE,
)
_LONGEST_CITATION = 4_000
_PERSON = re.compile(
    r"(?P<family>[^\W\d_][^,;&…]*), (?P<given>[^\W\d_]\.(?:[- ]?[^\W\d_]\.)*)"
)
_NEXT = re.compile(r",? (?:&|…|\.\.\.) |, ")
_ELISION = re.compile(r",? (?:…|\.\.\.) ")


def parse(citation: str, doi: str | None) -> dict[str, Any]:
    """Read a citation where it is surely one data set under this DOI; else nothing."""
    found = _CITATION.fullmatch(citation[:_LONGEST_CITATION])
    if not found or found["doi"].lower() != doi or "doi.org" in found["title"]:
        return {}
    authors = _authors(found["authors"])
    if not authors:
        return {}
    return {
        "authors": authors,
        "abridged": bool(_ELISION.search(found["authors"])),
        "year": int(found["year"]),
        "title": found["title"],
        "version": found["version"],
        "publisher": found["publisher"],
    }


def _authors(text: str) -> tuple[Name, ...]:
    """Split a list of authors, where each is a family name with initials.

    A text without a comma is the name of one group.
    """
    if not re.search(r"[,;&…]", text):
        return (Name(text.rstrip(".")),)
    names: list[Name] = []
    at = 0
    while at < len(text):
        if names:
            joint = _NEXT.match(text, at)
            if not joint:
                return ()
            at = joint.end()
        person = _PERSON.match(text, at)
        if not person or person["given"] != person["given"].upper():
            return ()
        names.append(Name(person["family"], person["given"]))
        at = person.end()
    return tuple(names)


def entry_key(doi: str | None, url: str | None, title: str) -> str:
    """Give a key that depends on nothing but what it names."""
    if doi is not None:
        # Other signs mean something to BibTeX; DOIs of IDC have none of them.
        return re.sub(r"[^a-z0-9./:_-]", lambda m: f"+{ord(m[0]):x}+", doi)
    named = f"{url or ''}\n{title}"
    slug = re.sub(r"[^a-z0-9]+", "-", (title or url or "").lower()).strip("-")[:40]
    return f"{slug or 'source'}-{hashlib.sha256(named.encode()).hexdigest()[:8]}"


IDC_PAPER = Reference(
    key="10.1148/rg.230180",
    title=(
        "National Cancer Institute Imaging Data Commons: Toward Transparency, "
        "Reproducibility, and Scalability in Imaging Artificial Intelligence"
    ),
    doi="10.1148/rg.230180",
    url="https://doi.org/10.1148/rg.230180",
    authors=(
        Name("Fedorov", "Andrey"),
        Name("Longabaugh", "William J R"),
        Name("Pot", "David"),
        Name("Clunie", "David A"),
        Name("Pieper", "Steven D"),
        Name("Gibbs", "David L"),
        Name("Bridge", "Christopher"),
        Name("Herrmann", "Markus D"),
        Name("Homeyer", "André"),
        Name("Lewis", "Rob"),
        Name("Aerts", "Hugo J W L"),
        Name("Krishnaswamy", "Deepa"),
        Name("Thiriveedhi", "Vamsi Krishna"),
        Name("Ciausu", "Cosmin"),
        Name("Schacherer", "Daniela P"),
        Name("Bontempi", "Dennis"),
        Name("Pihl", "Todd"),
        Name("Wagner", "Ulrike"),
        Name("Farahani", "Keyvan"),
        Name("Kim", "Erika"),
        Name("Kikinis", "Ron"),
    ),
    year=2023,
    journal="RadioGraphics",
    volume="43",
    issue="12",
    pages="e230180",
)
"""The paper that IDC asks to be cited by."""


def _initials(given: str) -> str:
    return " ".join(f"{part[0]}." for part in given.split())


def paper_text() -> str:
    """Give the paper in the style of the other citations."""
    paper = IDC_PAPER
    names = [f"{name.family}, {_initials(name.given)}" for name in paper.authors]
    listed = f"{', '.join(names[:19])}, … {names[-1]}"
    place = f"{paper.journal}, {paper.volume}({paper.issue}), {paper.pages}"
    return f"{listed} ({paper.year}). {paper.title}. {place}. {paper.url}"
