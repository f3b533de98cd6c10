"""The text of a notice to keep beside copied data."""

from __future__ import annotations

import textwrap
from typing import TYPE_CHECKING

from intake_idc import display
from intake_idc.citations.bibliography import paper_text
from intake_idc.citations.texts import one_line

if TYPE_CHECKING:
    from collections.abc import Iterator

    from intake_idc.citations.values import Citations, Source

__all__ = ["MANIFEST_LINE", "notice_text"]


ACKNOWLEDGEMENT = (
    "IDC asks for a citation of its paper, and for an acknowledgement of each "
    "collection that was used."
)
"""What IDC's answer to "How to acknowledge IDC?" asks for, in its documentation."""


MANIFEST_LINE = "Manifest: sha256 "
"""How the line of a notice begins that names the cohort."""


def _heading(title: str) -> tuple[str, ...]:
    line = one_line(title)
    return line, "-" * len(line), ""


def _wrapped(text: str, indent: str) -> list[str]:
    return textwrap.wrap(
        one_line(text),
        80,
        initial_indent=indent,
        subsequent_indent=indent,
        break_long_words=False,
        break_on_hyphens=False,
    )


def _names(source: Source) -> str:
    return ", ".join(source.collections) or "-"


def _source(source: Source) -> Iterator[str]:
    yield from _wrapped(source.title, "")
    yield from _wrapped(f"Collections: {_names(source)}", "  ")
    kind = f"{source.source_type.replace('_', ' ')}, " if source.source_type else ""
    amount = display.count_text(source.series, "series")
    yield f"  Size: {kind}{amount}, {source.size:,} bytes"
    if source.conflicting:
        yield "  Licence: stated in conflicting ways; see below"
    yield from _wrapped(f"Cite: {source.text}", "  ")
    yield ""


def notice_text(citations: Citations, manifest: str | None) -> str:
    """Give the text of a notice; see `Citations.notice`."""
    what = display.count_text(citations.series, "series")
    lines = [
        "NOTICE",
        "",
        "Imaging data of the NCI Imaging Data Commons (IDC)",
        f"Index: release {citations.idc_version}, {citations.tables or 'no tables'}",
        f"Size: {what}, {citations.size:,} bytes",
        *([f"{MANIFEST_LINE}{manifest}"] if manifest else []),
        "",
        *_licences(citations),
        *_conflicts(citations),
        *_heading("The Imaging Data Commons"),
        *_wrapped(ACKNOWLEDGEMENT, ""),
        "",
        *_wrapped(paper_text(), "  "),
    ]
    return "".join(f"{line}\n" for line in lines)


def _licences(citations: Citations) -> Iterator[str]:
    for name in citations.licenses:
        sources = [s for s in citations if s.license_short_name == name]
        uncited = [u for u in citations.uncited if u.license_short_name == name]
        yield from _heading(name or "Unknown licence")
        stated = dict.fromkeys(
            text
            for source in sources
            if not source.conflicting
            for text in (source.license_long_name, source.license_url)
            if text and text != name
        )
        yield from (*stated, *([""] if stated else []))
        for source in sources:
            yield from _source(source)
        if uncited:
            yield "Whom to cite is not known from the tables at hand:"
            for one in uncited:
                yield from _wrapped(str(one), "  ")
            yield ""


def _conflicts(citations: Citations) -> Iterator[str]:
    if citations.conflicts:
        yield from _heading("Conflicting statements")
        yield from _wrapped(
            "The licence of these sources is stated in ways that contradict each "
            "other. Ask their publishers before relying on any of them.",
            "",
        )
        yield ""
    for conflict in citations.conflicts:
        yield from _wrapped(conflict.source.title, "")
        yield from _wrapped(f"Collections: {_names(conflict.source)}", "  ")
        yield from (f"  {who}: {one_line(what)}" for who, what in conflict.statements)
        yield ""
