"""A source that carries its release in every form it takes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Literal

from intake.source.base import DataSource

from intake_idc.cohort.writing import refuse_templates
from intake_idc.credentials import refuse_in_url
from intake_idc.files import whole_path
from intake_idc.release import Release, open_release
from intake_idc.storage import resolve_mirror

if TYPE_CHECKING:
    import os

__all__ = ["Pinned", "Version", "lasting_mirror", "lasting_path"]

Version = int | Literal["current"]

_INTAKE_ARGUMENTS = frozenset({"metadata", "name", "description"})


class Pinned(DataSource):
    """A source that is what its arguments say, the release among them.

    Intake's own equality and hash fail after pickling, and its pickle forgets the
    name.
    """

    idc_version: int
    _tables: str | None
    _captured_init_kwargs: dict[str, Any]

    def _pin(self, **arguments: Any) -> None:
        """Write resolved arguments back among those that the source was made with."""
        self._captured_init_args = ()
        self._captured_init_kwargs.update(arguments)

    def _pin_release(
        self,
        idc_version: Version,
        tables: str | None,
        digest: Mapping[str, str] | str | None,
    ) -> Release:
        """Open the release, and write back its number and where its tables are."""
        release = open_release(idc_version, tables, digest)
        self.idc_version = release.idc_version
        self._tables = None if tables is None else release.spec
        places = {} if tables is None else {"tables": self._tables}
        self._pin(idc_version=self.idc_version, **places)
        return release

    def configure_new(self, **kwargs: Any) -> Any:
        """Give a new source with some arguments changed; the release stays."""
        new = super().configure_new(**{"idc_version": self.idc_version, **kwargs})
        new.name, new.description = self.name, self.description
        return new

    __call__ = get = configure_new

    @property
    def _identity(self) -> tuple[Any, ...]:
        kwargs = {
            key: value
            for key, value in self._captured_init_kwargs.items()
            if key not in _INTAKE_ARGUMENTS
        }
        return type(self).__qualname__, _frozen(kwargs)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Pinned):
            return NotImplemented
        return self._identity == other._identity

    def __hash__(self) -> int:
        return hash(self._identity)

    def __dask_tokenize__(self) -> tuple[Any, ...]:
        return self._identity

    def __reduce__(self) -> tuple[Any, ...]:
        kwargs = dict(self._captured_init_kwargs)
        return _remake, (type(self), kwargs, self.name, self.description)

    def _yaml(self) -> dict[str, Any]:
        """Describe the source by its driver's name, whatever its own name is.

        Raises
        ------
        RequestError
            A text would not come back from a catalog as it is.
        """
        kwargs = dict(self._captured_init_kwargs)
        refuse_templates([kwargs, self.name, self.description or ""])
        metadata = dict(kwargs.pop("metadata", None) or {})
        metadata.pop("catalog_dir", None)
        entry = {
            "driver": type(self).name,
            "description": self.description or "",
            "metadata": metadata,
            "args": kwargs,
        }
        return {"sources": {self.name: entry}}

    def _close(self) -> None:
        """Hold nothing open."""


def lasting_path(path: str | os.PathLike[str], what: str) -> str:
    """Give a path or URL as a catalog keeps it: whole, and without a secret.

    Raises
    ------
    MirrorError
        It is a URL with a user name, a password or a signature.
    """
    refuse_in_url(str(path), what)
    return whole_path(path)


def lasting_mirror(mirror: str | os.PathLike[str], **reading: Any) -> str:
    """Give a mirror as a catalog keeps it, which is named anew on a worker.

    Raises
    ------
    MirrorError
        It is no mirror, or holds a secret; see `resolve_mirror`.
    """
    found = resolve_mirror(mirror, **reading)
    return str(mirror) if found.name == str(mirror) else whole_path(mirror)


def _remake(
    cls: type[Pinned], kwargs: dict[str, Any], name: str, description: str | None
) -> Pinned:
    source = cls(**kwargs)
    source.name, source.description = name, description
    return source


def _frozen(value: Any) -> Any:
    """Give plain data in a form that can be hashed and that has one order."""
    if isinstance(value, Mapping):
        return tuple(sorted((str(k), _frozen(v)) for k, v in value.items()))
    if isinstance(value, list | tuple):
        return tuple(_frozen(item) for item in value)
    return value
