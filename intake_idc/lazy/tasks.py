"""What a worker does with a partition: list its series, and read their objects."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from intake_idc.lazy.failures import Failure, OnError, Outcome, attempt
from intake_idc.lazy.objects import DicomObject
from intake_idc.storage import instances

if TYPE_CHECKING:
    from intake_idc.manifest import Manifest, Part, Piece
    from intake_idc.storage import Mirror

__all__ = ["ReadObjects", "itself", "list_objects"]


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
    series = attempt(
        partial(_list, mirror=mirror),
        parts,
        lambda part: (mirror.series_url(part), part.crdc_series_uuid, None),
        on_error,
    )
    return Outcome([one for found in series.results for one in found], series.failures)


def _list(part: Part, mirror: Mirror) -> list[DicomObject]:
    return [DicomObject(one, mirror) for one in instances([part], mirror)]


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
        found = list_objects(piece.parts(), self.mirror, self.on_error)
        read: Outcome[Any] = found
        if self.function is not itself:
            read = attempt(self.function, found.results, _named, self.on_error)
        if self.on_error != "collect":
            return read.results
        failures: list[Failure] = [*found.failures]
        if read is not found:
            failures += read.failures
        return Outcome(read.results, failures)


def _named(found: DicomObject) -> tuple[str, str, str | None]:
    return found.url, found.crdc_series_uuid, found.crdc_instance_uuid
