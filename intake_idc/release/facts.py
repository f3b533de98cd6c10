"""What is recorded of published releases: counts, digests, known exceptions."""

from __future__ import annotations

import functools
import json
from dataclasses import dataclass
from importlib.resources import files
from typing import Any

__all__ = [
    "Exceptions",
    "Published",
    "RebuiltOnly",
    "dates",
    "exceptions",
    "published",
    "published_tables",
    "published_wheels",
]


@dataclass(frozen=True)
class Published:
    """What the published index package of a release holds."""

    series: int
    """Number of series."""
    sha256: str
    """SHA-256 over the sorted crdc_series_uuids, one a line, no final newline."""
    xor: str
    """XOR of the MD5 of every crdc_series_uuid, as 32 hex digits."""


@dataclass(frozen=True)
class RebuiltOnly:
    """Series of one collection that the rule puts into releases wrongly."""

    collection_id: str
    """Their collection."""
    versions: frozenset[int]
    """The releases that lack them."""
    uuids: tuple[str, ...]
    """Their crdc_series_uuids."""


@dataclass(frozen=True)
class Exceptions:
    """Where the rule that rebuilds a release and the published package differ."""

    rebuilt_only: tuple[RebuiltOnly, ...]
    """What the rule puts into releases wrongly."""
    published_only: tuple[dict[str, Any], ...]
    """Rows that releases had and that the tables have forgotten since; the key
    ``versions`` holds the releases, the others are columns of the index."""

    def absent(self, idc_version: int) -> dict[str, list[str]]:
        """Give what the rule puts into this release wrongly, by collection."""
        found: dict[str, list[str]] = {}
        for group in self.rebuilt_only:
            if idc_version in group.versions:
                found.setdefault(group.collection_id, []).extend(group.uuids)
        return found

    def forgotten(self, idc_version: int) -> list[dict[str, Any]]:
        """Give the rows of this release that the tables have forgotten."""
        return [row for row in self.published_only if idc_version in row["versions"]]


def _read(name: str) -> Any:
    return json.loads((files("intake_idc.facts") / name).read_text("utf-8"))


@functools.cache
def exceptions() -> Exceptions:
    """Give the recorded exceptions."""
    data = _read("exceptions.json")
    rebuilt_only = tuple(
        RebuiltOnly(
            group["collection_id"],
            frozenset(group["versions"]),
            tuple(group["crdc_series_uuid"]),
        )
        for group in data["rebuilt_only"]
    )
    return Exceptions(rebuilt_only, tuple(data["published_only"]))


@functools.cache
def published() -> dict[int, Published]:
    """Give what is recorded of each release that was published as a package."""
    return {
        int(version): Published(fact["series"], fact["sha256"], fact["xor"])
        for version, fact in _read("releases.json")["releases"].items()
        if fact.get("sha256")
    }


@functools.cache
def dates() -> dict[int, str]:
    """Give the day each release came out (ISO 8601), as far as is recorded."""
    return {int(v): date for v, date in _read("releases.json")["dates"].items()}


@functools.cache
def published_tables() -> tuple[str, ...]:
    """Give the names of the index tables that IDC publishes."""
    return tuple(_read("tables.json")["tables"])


@functools.cache
def published_wheels() -> dict[str, str]:
    """Give the SHA-256 of every published wheel of idc-index-data, by file name."""
    return dict(_read("wheels.json")["wheels"])
