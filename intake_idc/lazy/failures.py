"""What could not be read, as a table beside what could."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from functools import partial
from types import GeneratorType
from typing import TYPE_CHECKING, Any, Generic, Literal, TypeVar, cast, get_args

from intake_idc.errors import (
    AccessDenied,
    DicomReadError,
    GeometryError,
    IDCError,
    IntegrityError,
    ObjectChanged,
    ObjectNotFound,
    RequestError,
    StorageError,
)
from intake_idc.storage import each

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = [
    "Failure",
    "OnError",
    "Outcome",
    "attempt",
    "call",
    "check_on_error",
    "failure_of",
    "failures_table",
    "leave_out",
]

log = logging.getLogger(__name__)

OnError = Literal["raise", "skip", "collect"]
"""What becomes of an object that cannot be read: it ends the computation, it is left
out with a line in the log, or it is a row of a table."""

Given = TypeVar("Given")
Result = TypeVar("Result")


@dataclass(frozen=True)
class Failure:
    """One object, or one series, that gave no result."""

    url: str
    """Where it lies."""
    crdc_series_uuid: str
    """The series."""
    crdc_instance_uuid: str | None
    """The object; None where the series could not be listed, or is meant as a whole."""
    kind: str
    """What is wrong: the kind of a `DicomReadError`, the verdict of a
    `GeometryError`, ``"not found"``, ``"denied"``, ``"changed"``, ``"storage"``,
    ``"integrity"``, or the name of an exception of the caller's own."""
    reason: str
    """The message of the error."""
    attempts: int
    """How often it was tried."""


@dataclass(frozen=True)
class Outcome(Generic[Result]):
    """What came of some objects."""

    results: list[Result]
    """Of those that could be read, in order."""
    failures: list[Failure]
    """Of those that could not."""


def check_on_error(on_error: str) -> None:
    """Refuse a word that is none of `OnError`.

    Raises
    ------
    RequestError
        It is another.
    """
    if on_error not in get_args(OnError):
        msg = f"on_error is 'raise', 'skip' or 'collect'; got {on_error!r}"
        raise RequestError(msg)


def attempt(
    function: Callable[[Given], Result],
    items: Iterable[Given | Failure],
    named: Callable[[Given], tuple[str, str, str | None]],
    on_error: OnError,
) -> Outcome[Result]:
    """Call a function on every item, side by side, and sort out what fails.

    Parameters
    ----------
    function : callable
        What is done with an item.
    items : iterable
        In order; a `Failure` among them stays one.
    named : callable
        Gives url, crdc_series_uuid and crdc_instance_uuid of an item.
    on_error : OnError
        What becomes of an item whose call raises.
    """
    function = partial(call, function)
    if on_error == "raise":
        return Outcome(list(each(function, cast("Iterable[Given]", items))), [])

    def tried(item: Given | Failure) -> Result | _Failed:
        if isinstance(item, Failure):
            return _Failed(item)
        try:
            return function(item)
        except Exception as error:  # noqa: BLE001  (it becomes a row of the table)
            return _Failed(failure_of(error, *named(item)))

    outcome: Outcome[Result] = Outcome([], [])
    for found in each(tried, items):
        if isinstance(found, _Failed):
            outcome.failures.append(found.failure)
        else:
            outcome.results.append(found)
    if on_error == "skip":
        leave_out(outcome.failures)
        outcome.failures.clear()
    return outcome


def call(function: Callable[[Given], Result], item: Given) -> Result:
    """Call a function of the caller's.

    Raises
    ------
    RequestError
        It gives a generator, which would read, and fail, after its task has ended.
    """
    result = function(item)
    if isinstance(result, GeneratorType):
        msg = (
            f"{function!r} gave a generator, which reads nothing before its task has "
            "ended; give a list"
        )
        raise RequestError(msg)
    return result


def leave_out(failures: Iterable[Failure]) -> None:
    """Say in the log what is left out."""
    for failure in failures:
        log.warning("left out: %s (%s)", failure.reason, failure.kind)


@dataclass(frozen=True)
class _Failed:
    failure: Failure


def failure_of(
    error: Exception, url: str, crdc_series_uuid: str, crdc_instance_uuid: str | None
) -> Failure:
    """Describe an error as a row of the table."""
    attempts = error.details.get("attempts", 1) if isinstance(error, IDCError) else 1
    # What is no text, of a header or of a path, would spoil the table of all others.
    reason = str(error).encode(errors="backslashreplace").decode()
    return Failure(
        url, crdc_series_uuid, crdc_instance_uuid, _kind(error), reason, attempts
    )


def _kind(error: Exception) -> str:
    if isinstance(error, DicomReadError):
        return error.kind
    if isinstance(error, GeometryError):
        return error.verdict
    for kind, name in (
        (ObjectNotFound, "not found"),
        (AccessDenied, "denied"),
        (ObjectChanged, "changed"),
        (StorageError, "storage"),
        (IntegrityError, "integrity"),
    ):
        if isinstance(error, kind):
            return name
    return type(error).__name__


def failures_table(failures: Iterable[Failure]) -> pa.Table:
    """Give failures as a table: the fields of `Failure`, in their order.

    Each once: a series that cannot be listed fails in every partition that it is cut
    over.
    """
    import pyarrow as pa

    schema = pa.schema(
        {
            "url": pa.string(),
            "crdc_series_uuid": pa.string(),
            "crdc_instance_uuid": pa.string(),
            "kind": pa.string(),
            "reason": pa.string(),
            "attempts": pa.int32(),
        }
    )
    rows: list[dict[str, Any]] = [
        asdict(failure) for failure in dict.fromkeys(failures)
    ]
    return pa.Table.from_pylist(rows, schema)
