"""What a copy will do, decided before any byte moves; also the dry run.

Nothing here touches a disk or a network: what is listed and what is there already
come as arguments, and the plan is a value that can be printed, counted and tested.
"""

from __future__ import annotations

import hashlib
import re
import unicodedata
from collections import Counter
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any, Literal

from intake_idc import display
from intake_idc.errors import PlanError, nearest

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence

    from intake_idc.storage import Instance

__all__ = [
    "DIR_TEMPLATE",
    "Action",
    "Plan",
    "Step",
    "make",
    "safe_name",
    "series_folder",
    "template_columns",
]

Action = Literal["fetch", "keep", "replace"]

DIR_TEMPLATE = (
    "%collection_id/%PatientID/%StudyInstanceUID/%Modality_%SeriesInstanceUID"
)
"""Folders of a copy, as idc-index makes them: ``%`` and the name of a column."""

LONGEST_NAME = 120
"""Characters of one part of a path; longer ones end in a digest of the whole."""
_FORBIDDEN = re.compile(r'[<>:"/\\|?*\x00-\x1f\x7f]')
_RESERVED = re.compile(
    r"(con|prn|aux|nul|conin\$|conout\$|com[0-9¹²³]|lpt[0-9¹²³])(\..*)?$", re.IGNORECASE
)
_TOKEN = re.compile(r"%([A-Za-z_][A-Za-z0-9_]*)")


@dataclass(frozen=True)
class Step:
    """One object of the copy."""

    action: Action
    """What is done. ``fetch``: not there. ``keep``: there with the right size.
    ``replace``: there with another size."""
    path: str
    """Where it goes, below the target, with ``/`` between the parts."""
    instance: Instance
    """What goes there."""


@dataclass(frozen=True)
class Plan:
    """Every object of a copy, and what will be done with it."""

    target: Path
    """The folder that the copy goes to."""
    steps: tuple[Step, ...]
    """One for each object, in the order of the manifest."""

    @cached_property
    def counts(self) -> dict[str, int]:
        """Number of objects by action."""
        found = Counter(step.action for step in self.steps)
        return {action: found[action] for action in ("fetch", "keep", "replace")}

    @cached_property
    def size(self) -> int:
        """Bytes of all objects, those that are there included."""
        return sum(step.instance.size for step in self.steps)

    @cached_property
    def fetch_size(self) -> int:
        """Bytes that will be fetched."""
        return sum(s.instance.size for s in self.steps if s.action != "keep")

    @property
    def paths(self) -> list[Path]:
        """Full path of every object, in order."""
        return [self.target / step.path for step in self.steps]

    def _items(self) -> list[tuple[str, object]]:
        fetched = display.bytes_text(self.fetch_size)
        return [
            ("objects", f"{len(self.steps):,} ({display.bytes_text(self.size)})"),
            ("to fetch", f"{self.counts['fetch']:,}"),
            ("to replace", f"{self.counts['replace']:,}"),
            ("there already", f"{self.counts['keep']:,}"),
            ("bytes to fetch", fetched),
        ]

    def __str__(self) -> str:
        return display.pairs(f"Copy to {self.target}", self._items())

    def _repr_html_(self) -> str:
        return display.pairs_html(f"Copy to {self.target}", self._items())


def template_columns(dir_template: str, columns: Collection[str]) -> list[str]:
    """Give the columns that a template names.

    A name may run into what follows it: the longest column that fits is meant.

    >>> template_columns("%Modality_%SeriesNumber", ["Modality", "SeriesNumber"])
    ['Modality', 'SeriesNumber']

    Raises
    ------
    PlanError
        The template is absolute, climbs out of the target, or names no column.
    """
    parts = dir_template.split("/")
    if dir_template.startswith("/") or ".." in parts or "\\" in dir_template:
        msg = f"dir_template must stay below the target; got {dir_template!r}"
        raise PlanError(msg, dir_template=dir_template)
    return [_column(token, columns) for token in _TOKEN.findall(dir_template)]


def _column(token: str, columns: Collection[str]) -> str:
    for end in range(len(token), 0, -1):
        if token[:end] in columns:
            return token[:end]
    near = nearest(token, columns) or "; columns: " + ", ".join(columns)
    msg = f"dir_template names no column at %{token}{near}"
    raise PlanError(msg, token=token)


def series_folder(dir_template: str, row: Mapping[str, Any]) -> str:
    """Give the folder of one series below the target, every part made safe.

    Parameters
    ----------
    dir_template : str
        Parts divided by ``/``, in which ``%`` and a column's name stand for its
        value. An empty template puts every file into the target itself.
    row : mapping
        Columns of the series; null counts as ``unknown``.

    Raises
    ------
    PlanError
        As in `template_columns`.
    """
    template_columns(dir_template, row)

    def value(match: re.Match[str]) -> str:
        column = _column(match[1], row)
        found = row[column]
        return ("unknown" if found is None else str(found)) + match[1][len(column) :]

    parts = [part for part in dir_template.split("/") if part not in ("", ".")]
    return "/".join(safe_name(_TOKEN.sub(value, part)) for part in parts)


def safe_name(text: str) -> str:
    """Give a name that is one part of a path on Linux, macOS and Windows.

    Characters that a platform forbids become ``_``, the form is NFC, dots and
    blanks do not stand at an end, device names of Windows get a ``_``, and a name
    of more than 120 characters ends in a digest of the whole.
    """
    name = _FORBIDDEN.sub("_", unicodedata.normalize("NFC", text)).strip(". ")
    # Lone surrogates cannot be encoded for any file system.
    name = name.encode("utf-8", "replace").decode("utf-8").replace("?", "_") or "_"
    if _RESERVED.match(name):
        name = f"_{name}"
    if len(name) > LONGEST_NAME or len(name.encode()) > 2 * LONGEST_NAME:
        digest = hashlib.sha256(text.encode("utf-8", "replace")).hexdigest()[:16]
        keep = name.encode()[: LONGEST_NAME - 17].decode("utf-8", "ignore")
        name = f"{keep.strip('. ')}-{digest}"
    return name


def make(
    instances: Sequence[Instance],
    folders: Mapping[str, str],
    present: Mapping[str, int],
    target: Path,
) -> Plan:
    """Decide what a copy does with each object.

    Parameters
    ----------
    instances : sequence of Instance
        What is to be there.
    folders : mapping
        Folder of each ``crdc_series_uuid`` below the target.
    present : mapping
        Size in bytes of each file that is there, by path below the target.
    target : Path
        The folder that the copy goes to.

    Raises
    ------
    PlanError
        Two objects would have one path, on a file system that takes upper and
        lower case for the same.
    """
    steps: list[Step] = []
    taken: dict[str, Instance] = {}
    for instance in instances:
        folder = folders[instance.part.crdc_series_uuid]
        name = safe_name(f"{instance.crdc_instance_uuid}.dcm")
        path = str(PurePosixPath(folder) / name)
        other = taken.setdefault(path.casefold(), instance)
        if other is not instance:
            msg = (
                f"{other.url} and {instance.url} would both be {path}; "
                "put %SeriesInstanceUID or %crdc_series_uuid into dir_template"
            )
            raise PlanError(msg, path=path)
        steps.append(Step(_action(instance, present.get(path)), path, instance))
    return Plan(target, tuple(steps))


def _action(instance: Instance, found: int | None) -> Action:
    if found is None:
        return "fetch"
    return "keep" if found == instance.size else "replace"
