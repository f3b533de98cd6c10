"""What a worker does with a partition: list its series, and read their objects."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from intake_idc.lazy.failures import (
    Failure,
    OnError,
    Outcome,
    attempt,
    failure_of,
)
from intake_idc.lazy.handles import DicomObject
from intake_idc.storage import each, instances, list_series

if TYPE_CHECKING:
    from intake_idc.manifest import Manifest, Part, Piece
    from intake_idc.storage import Mirror

__all__ = ["ReadObjects", "itself", "list_objects", "list_parts"]


def itself(found: DicomObject) -> DicomObject:
    """Give the handle, unread."""
    return found


def list_objects(
    parts: Iterable[Part], mirror: Mirror, on_error: OnError = "raise"
) -> Outcome[DicomObject]:
    """List the objects of some series, in order, with those that cannot be listed.

    Raises
    ------
    IntegrityError, StorageError
        Under ``on_error="raise"``; see `intake_idc.storage.instances`.
    """
    if on_error == "raise":
        listed = instances(parts, mirror)
        return Outcome([DicomObject(one, mirror) for one in listed], [])
    return attempt(itself, list_parts(parts, mirror), _named, on_error)


def list_parts(parts: Iterable[Part], mirror: Mirror) -> list[DicomObject | Failure]:
    """List the objects of some series, in order, and in their places what fails.

    That is a series, or the part of it that is meant; or one object that is meant, and
    that the series lacks.
    """
    listed = each(partial(_listed, mirror=mirror), parts)
    return [item for found in listed for item in found]


def _listed(part: Part, mirror: Mirror) -> list[DicomObject | Failure]:
    series = part.crdc_series_uuid
    try:
        found, lacking = list_series(part, mirror)
    except Exception as error:  # noqa: BLE001  (it becomes a row of the table)
        return [failure_of(error, mirror.series_url(part), series, None)]
    items: list[DicomObject | Failure] = [DicomObject(it, mirror) for it in found]
    for one in lacking:
        url, uuid = one.details["url"], one.details["crdc_instance_uuid"]
        items.append(failure_of(one, url, series, uuid))
    if lacking:
        items.sort(key=lambda item: item.crdc_instance_uuid or "")
    return items


@dataclass(frozen=True)
class ReadObjects:
    """A task: apply a function to every object of a piece, in one bounded batch."""

    mirror: Mirror
    """Where the objects are read."""
    function: Callable[[DicomObject], Any]
    """What is done with each."""
    on_error: OnError = "raise"
    """What becomes of one that fails."""

    def __call__(self, piece: Piece | Manifest) -> list[Any] | Outcome[Any]:
        """Give what came of the objects, in order; an `Outcome` where it collects."""
        found: Sequence[DicomObject | Failure]
        if self.on_error == "raise":
            found = list_objects(piece.parts(), self.mirror).results
            if self.function is itself:
                return [*found]
        else:
            found = list_parts(piece.parts(), self.mirror)
        read = attempt(self.function, found, _named, self.on_error)
        return read if self.on_error == "collect" else read.results


def _named(found: DicomObject) -> tuple[str, str, str | None]:
    return found.url, found.crdc_series_uuid, found.crdc_instance_uuid
