"""What can go wrong, grouped by what the caller does next.

.. code-block:: text

    IDCError
    ├── RequestError (ValueError)      change what was asked for
    │   ├── UnknownColumn              a column no table of the release has
    │   ├── UnknownValue               a value the column never takes
    │   ├── UnknownRelease             a release number nobody knows
    │   ├── EmptySelection             nothing selected, or nothing asked
    │   ├── BadCondition               an SQL condition that is not one
    │   ├── BadBody                    a body of the IDC API that is not one
    │   ├── ManifestError              lines of a manifest that cannot be used
    │   ├── MirrorError                a place that cannot be read, or a secret
    │   └── PlanError                  paths that would collide or escape
    ├── MissingError (LookupError)     get something first
    │   ├── TableNotFound              an index table is not at hand
    │   └── SeriesWithdrawn            a series that the release does not hold
    ├── StorageError (OSError)         try again, or another mirror
    │   ├── AccessDenied               the store does not let us
    │   ├── ObjectChanged              the object is another than was listed
    │   ├── ObjectNotFound             the store has no such object
    │   └── WrongSize                  the store gave another number of bytes
    ├── IntegrityError                 do not trust these bytes or tables
    ├── DicomReadError (ValueError)    this object is not readable DICOM
    ├── GeometryError (ValueError)     these slices make no regular volume
    ├── NoSpace (OSError)              make room, or copy to another place
    └── TransferError                  a copy ended with something missing

Every error carries one message and named details, and both survive pickling,
so that an error raised in a Dask worker arrives whole. ``exit_code`` is what
the command ends with.
"""

from __future__ import annotations

import difflib
import errno
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable

__all__ = [
    "AccessDenied",
    "BadBody",
    "BadCondition",
    "DicomReadError",
    "EmptySelection",
    "GeometryError",
    "IDCError",
    "IntegrityError",
    "ManifestError",
    "MirrorError",
    "MissingError",
    "NoSpace",
    "ObjectChanged",
    "ObjectNotFound",
    "PlanError",
    "RequestError",
    "SeriesWithdrawn",
    "StorageError",
    "TableNotFound",
    "TransferError",
    "UnknownColumn",
    "UnknownRelease",
    "UnknownValue",
    "WrongSize",
    "nearest",
]


def _rebuild(cls: type[IDCError], message: str, details: dict[str, Any]) -> IDCError:
    return cls(message, **details)


class IDCError(Exception):
    """Anything this package refuses to do, with one message and named details."""

    exit_code = 1

    def __init__(self, message: str, **details: Any) -> None:
        super().__init__(message)
        self.message = message
        self.details = details

    def __str__(self) -> str:
        return self.message

    def __reduce__(self) -> tuple[Any, ...]:
        return _rebuild, (type(self), self.message, self.details)


class RequestError(IDCError, ValueError):
    """Change what was asked for."""

    exit_code = 2


class UnknownColumn(RequestError):
    """A column that the table does not have; the message names the nearest."""


class UnknownValue(RequestError):
    """A value that the column never takes; the message names the nearest."""


class UnknownRelease(RequestError):
    """A release number that the tables at hand do not know."""


class EmptySelection(RequestError):
    """Nothing was selected, or no filter was given where one is needed."""


class BadCondition(RequestError):
    """An SQL condition that is not one read-only condition."""


class BadBody(RequestError):
    """A body of the IDC API that the service would refuse, in its own words."""

    @property
    def code(self) -> int:
        """The HTTP status that the service would answer with."""
        return int(self.details.get("code", 400))

    def to_dict(self) -> dict[str, Any]:
        """Give what the service would answer: ``code`` and ``message``."""
        return {"code": self.code, "message": self.message}


class ManifestError(RequestError):
    """Lines of a manifest that cannot be used; ``problems`` holds them all."""

    exit_code = 3

    @property
    def problems(self) -> tuple[Any, ...]:
        """Every rejected line, as `intake_idc.formats.Problem`."""
        return tuple(self.details.get("problems", ()))


class MirrorError(RequestError):
    """A mirror that cannot be read as described, or that carries a secret."""


class PlanError(RequestError):
    """A copy that would collide, or write outside its target."""

    exit_code = 3


class MissingError(IDCError, LookupError):
    """Something has to be fetched or installed first."""

    exit_code = 4


class TableNotFound(MissingError):
    """An index table is not at hand; the message says where to get it."""


class SeriesWithdrawn(MissingError):
    """A series that a release no longer holds, or not yet.

    The message says when it went or came, and how to get its bytes; the details
    are ``SeriesInstanceUID``, ``idc_version`` and ``last_idc_version``, the last
    release that held it (None where it came later).
    """


class StorageError(IDCError, OSError):
    """A store failed; another try or another mirror may not.

    Where a request was tried again, ``details["attempts"]`` says how often.
    """

    exit_code = 4


class AccessDenied(StorageError, PermissionError):
    """The store does not let us read an object, or list a place."""


class ObjectChanged(StorageError):
    """An object is another than the one that was listed, or begun to be read."""


class ObjectNotFound(StorageError, FileNotFoundError):
    """The store has no such object or series."""


class WrongSize(StorageError):
    """The store gave another number of bytes than it had announced."""


class IntegrityError(IDCError):
    """Bytes or tables are not what their digest, count or size says."""

    exit_code = 5


class DicomReadError(IDCError, ValueError):
    """An object that cannot be read as DICOM.

    Attributes
    ----------
    kind : str
        ``"not dicom"``, ``"truncated"``, ``"malformed"``, ``"no pixels"`` (a good
        object, asked for frames), ``"other class"`` (a good object, and not of the
        kind that is asked for, such as masks of a CT) or ``"undecodable"`` (nothing
        that is installed decodes it; the message names the extra that would).
    url : str
        Where the object lies.
    offset : int or None
        Byte offset at which reading stopped, where it is known.
    """

    @property
    def kind(self) -> str:
        """What is wrong, in one or two words."""
        return str(self.details.get("kind", "malformed"))

    @property
    def url(self) -> str:
        """Where the object lies."""
        return str(self.details.get("url", ""))

    @property
    def offset(self) -> int | None:
        """Byte offset at which reading stopped."""
        return self.details.get("offset")


class GeometryError(IDCError, ValueError):
    """Slices that make no regular volume, or values that say no place.

    Attributes
    ----------
    verdict : str
        What the slices are instead, such as ``"missing"`` or ``"duplicate"``.
    reasons : tuple of str
        Why, in words; each with its numbers.
    """

    @property
    def verdict(self) -> str:
        """What the slices are, in one or two words."""
        return str(self.details.get("verdict", "not a volume"))

    @property
    def reasons(self) -> tuple[str, ...]:
        """Everything that is wrong, each in one line."""
        return tuple(self.details.get("reasons", ())) or (self.message,)


class NoSpace(IDCError, OSError):
    """There is no room for a copy, which has not begun.

    Its ``errno`` is ``ENOSPC``. ``details`` has what is ``free`` and what is
    ``needed``, and ``of`` what: ``"bytes"`` or ``"files"``.
    """

    exit_code = 6

    def __init__(self, message: str, **details: Any) -> None:
        super().__init__(message, **details)
        self.errno = errno.ENOSPC


class TransferError(IDCError):
    """A copy that ended with something missing; ``report`` says what.

    ``exit_code`` is 4, or 5 where bytes are not those whose hash is known, or 6 where
    there was no space left.
    """

    exit_code = 4

    def __init__(self, message: str, **details: Any) -> None:
        super().__init__(message, **details)
        self.exit_code = int(details.get("exit_code", self.exit_code))

    @property
    def report(self) -> Any:
        """The `intake_idc.transfer.Report` of the copy."""
        return self.details.get("report")


def nearest(wanted: object, known: Iterable[object], count: int = 3) -> str:
    """Say which known names are nearest to the one that was asked for.

    Returns
    -------
    str
        ``"; did you mean 'a', 'b'?"``, or an empty string where nothing is near.
    """
    names = [str(name) for name in known if name is not None]
    lowered = {name.lower(): name for name in reversed(names)}
    matches = difflib.get_close_matches(str(wanted).lower(), lowered, count, 0.6)
    if not matches:
        return ""
    return "; did you mean " + ", ".join(repr(lowered[m]) for m in matches) + "?"
