"""How fast copies were, so that a plan can say how long it will take.

Every copy of some size is written down in the cache's folder, per mirror. Nothing
depends on it; without the folder there is no estimate.
"""

from __future__ import annotations

import json
from contextlib import suppress
from typing import TYPE_CHECKING

from intake_idc import cache
from intake_idc.errors import RequestError
from intake_idc.plan import Rate

if TYPE_CHECKING:
    from intake_idc.storage import Mirror
    from intake_idc.transfer.report import Report

__all__ = ["known_rate", "remember"]

FILE = "rates.json"
KEPT = 8
"""Copies of a mirror that are remembered; older ones say little of today's line."""
LEAST_SECONDS, LEAST_OBJECTS = 0.5, 4
"""What a copy must have taken, and moved, to say something."""


def known_rate(mirror: Mirror) -> Rate | None:
    """Give the fastest rates of the last copies from a mirror; None where none was."""
    found = _read().get(_name(mirror), [])
    if not found:
        return None
    return Rate(max(rate[0] for rate in found), max(rate[1] for rate in found))


def remember(report: Report) -> None:
    """Write down how fast a copy was, unless it was too short to say."""
    moved = report.counts["fetched"] + report.counts["replaced"]
    if report.seconds < LEAST_SECONDS or moved < LEAST_OBJECTS:
        return
    rates, name = _read(), _name(report.plan.mirror)
    new = [report.fetched_size / report.seconds, moved / report.seconds]
    rates[name] = [*rates.get(name, []), new][-KEPT:]
    # A full disk, or no folder to write to, is no matter of the copy's.
    with suppress(OSError, RequestError), cache.adding(FILE) as part:
        part.write_text(json.dumps(rates), encoding="utf-8")


def _name(mirror: Mirror) -> str:
    return f"{mirror.root} {mirror.endpoint_url or ''}".strip()


def _read() -> dict[str, list[list[float]]]:
    # A file that another version wrote may be of another shape.
    with suppress(OSError, ValueError, TypeError, AttributeError, RequestError):
        path = cache.find(FILE)
        found = {} if path is None else json.loads(path.read_text(encoding="utf-8"))
        told = {str(k): [(float(a), float(b)) for a, b in v] for k, v in found.items()}
        return {k: [[a, b] for a, b in v if a > 0 and b > 0] for k, v in told.items()}
    return {}
