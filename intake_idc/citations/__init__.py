"""What a cohort's series ask for: licences, citations, a notice to keep beside a copy.

Everything comes from the index tables, offline. A row of `collections_index` names
the sources of a collection, each with its licence and an APA-like citation.
Bibliographic fields are taken from that text only where it parses surely; else the
whole text goes into the note of an entry. Nothing here reads a table: rows come in,
values go out.
"""

from __future__ import annotations

from intake_idc.citations.bibliography import IDC_PAPER, Name, Reference
from intake_idc.citations.collecting import Group, collect
from intake_idc.citations.licences import allows_commercial_use, licences_differ
from intake_idc.citations.notice import MANIFEST_LINE
from intake_idc.citations.statements import Stated, conflicting_groups, read_stated
from intake_idc.citations.texts import clean, dois
from intake_idc.citations.values import Citations, Conflict, Source, Uncited

__all__ = [
    "IDC_PAPER",
    "MANIFEST_LINE",
    "Citations",
    "Conflict",
    "Group",
    "Name",
    "Reference",
    "Source",
    "Stated",
    "Uncited",
    "allows_commercial_use",
    "clean",
    "collect",
    "conflicting_groups",
    "dois",
    "licences_differ",
    "read_stated",
]
