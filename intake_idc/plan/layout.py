"""Folders of a copy, by a template with columns of the manifest."""

from __future__ import annotations

import re
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Literal

from intake_idc.errors import PlanError, nearest
from intake_idc.plan.names import safe_name

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence

    import pyarrow as pa

__all__ = [
    "DIR_TEMPLATE",
    "UNKNOWN",
    "FileNames",
    "Template",
    "series_folder",
    "template_columns",
]

DIR_TEMPLATE = (
    "%collection_id/%PatientID/%StudyInstanceUID/%Modality_%SeriesInstanceUID"
)
"""Folders of a copy, as idc-index makes them: ``%`` and the name of a column."""

FileNames = Literal["uuid", "SOPInstanceUID", "slice"]
"""How the files of a copy are called: ``<crdc_instance_uuid>.dcm``,
``<SOPInstanceUID>.dcm``, or ``0001.dcm`` and so on, in the order of the slices."""

UNKNOWN = "unknown"
"""What null becomes."""

_ROOTED = re.compile(r"/+(?=[^%_/-])")
"""A path from the root. idc-index puts what begins with ``/%`` below the target."""
_TOKEN = re.compile(r"%(\w*)")


class Template:
    """A template of folders, ready to be applied to series.

    Parameters
    ----------
    text : str or None
        Parts divided by ``/``, in which ``%`` and a column's name stand for its value,
        and ``%%`` for ``%``. A name may run into what follows it: the longest column
        that fits is meant. Every template of idc-index is one. An empty text, or None,
        is flat: every file goes into the target itself.
    columns : collection of str
        Columns of the manifest.

    Raises
    ------
    PlanError
        The template is absolute, climbs out of the target, or names no column.

    >>> columns = ["PatientID", "Modality", "SeriesNumber"]
    >>> template = Template("%PatientID/%Modality_%SeriesNumber", columns)
    >>> template.folder({"PatientID": "a/b", "Modality": "CT", "SeriesNumber": 3})
    'a_b/CT_3'
    """

    def __init__(self, text: str | None, columns: Collection[str]) -> None:
        self.text = text or ""
        parts = self.text.split("/")
        if _ROOTED.match(self.text) or ".." in parts or "\\" in self.text:
            msg = (
                "dir_template must stay below the target, its parts divided by '/'; "
                f"got {self.text!r}"
            )
            raise PlanError(msg, dir_template=self.text)
        # The longest first: an alternative that is found is not given up.
        names = sorted(filter(None, columns), key=len, reverse=True)
        pattern = re.compile("%(" + "|".join(map(re.escape, ["%", *names])) + ")")
        self._parts: list[tuple[list[str], list[str]]] = []
        for part in parts:
            # Text and names in turn: the odd ones are names.
            pieces = pattern.split(part)
            for literal in pieces[::2]:
                self._check(literal, columns)
            texts, named = [pieces[0]], []
            for name, literal in zip(pieces[1::2], pieces[2::2], strict=True):
                if name == "%":
                    texts[-1] += name + literal
                else:
                    named.append(name)
                    texts.append(literal)
            if named or texts[0] not in ("", "."):
                self._parts.append((texts, named))

    def _check(self, literal: str, columns: Collection[str]) -> None:
        found = _TOKEN.search(literal)
        if found is not None:
            token = found[1]
            near = nearest(token, columns) or "; columns: " + ", ".join(columns)
            msg = f"dir_template names no column at %{token}{near}"
            raise PlanError(msg, token=token)

    @property
    def columns(self) -> list[str]:
        """Columns that it names, in order, each once."""
        return list(dict.fromkeys(name for _, named in self._parts for name in named))

    def __repr__(self) -> str:
        return f"Template({self.text!r})"

    def folder(self, row: Mapping[str, Any]) -> str:
        """Give the folder of one series below the target, every part made safe.

        Parameters
        ----------
        row : mapping
            Values of the columns, at least of those that are named; null counts as
            ``unknown``. Empty where the template is flat.
        """
        return "/".join(
            safe_name(_joined(texts, [_text(row[name]) for name in named]))
            for texts, named in self._parts
        )

    def folders(self, table: pa.Table) -> list[str]:
        """Give the folder of every row of a table that has the columns; see `folder`.

        Series share most parts of their folders, and each part is made once.
        """
        count = int(table.num_rows)
        if not self._parts:
            return [""] * count
        columns = {name: _texts(table.column(name)) for name in self.columns}
        parts = [
            _part_of_rows(texts, [columns[name] for name in named], count)
            for texts, named in self._parts
        ]
        return ["/".join(row) for row in zip(*parts, strict=True)]


def _texts(column: pa.ChunkedArray) -> list[str]:
    return [_text(value) for value in column.to_pylist()]


def _part_of_rows(
    texts: Sequence[str], values: Sequence[list[str]], count: int
) -> list[str]:
    if not values:
        return [safe_name(texts[0])] * count
    made: dict[tuple[str, ...], str] = {}
    found = []
    for row in zip(*values, strict=True):
        part = made.get(row)
        if part is None:
            part = made[row] = safe_name(_joined(texts, row))
        found.append(part)
    return found


def _joined(texts: Sequence[str], values: Sequence[str]) -> str:
    if not values:
        return texts[0]
    between = zip(values, texts[1:], strict=True)
    return texts[0] + "".join([value + text for value, text in between])


def _text(value: Any) -> str:
    if isinstance(value, str):
        return value
    # What is no number is not equal to itself.
    return UNKNOWN if value is None or value != value else str(value)  # noqa: PLR0124


def template_columns(dir_template: str | None, columns: Collection[str]) -> list[str]:
    """Give the columns that a template names, each once; errors are its own.

    >>> template_columns("%Modality_%SeriesNumber", ["Modality", "SeriesNumber"])
    ['Modality', 'SeriesNumber']
    """
    return Template(dir_template, columns).columns


def series_folder(dir_template: str | None, row: Mapping[str, Any]) -> str:
    """Give the folder of one series; see `Template.folder`."""
    return _template(dir_template, tuple(row)).folder(row)


@lru_cache(maxsize=16)
def _template(dir_template: str | None, columns: tuple[str, ...]) -> Template:
    return Template(dir_template, columns)
