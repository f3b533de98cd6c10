"""Decide what a copy does with each object."""

from __future__ import annotations

from array import array
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from intake_idc.arrow import packed, texts
from intake_idc.errors import PlanError
from intake_idc.plan.names import path_problem, safe_name, same
from intake_idc.plan.value import ACTIONS, SUFFIX, Plan

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping
    from pathlib import Path

    import numpy as np
    import pyarrow as pa

    from intake_idc.errors import IDCError
    from intake_idc.plan.value import Rate
    from intake_idc.storage import Instance, Listed, Mirror

__all__ = ["make"]

_AT_ONCE = 65_536
"""Rows that are gathered before they are packed."""
_FETCH, _REPLACE, _KEEP = (ACTIONS.index(a) for a in ("fetch", "replace", "keep"))
_COLLIDE, _REFUSE, _UNLISTED = (
    ACTIONS.index(a) for a in ("collide", "refuse", "unlisted")
)


def make(
    series: pa.Table,
    listed: Iterable[Listed],
    present: Callable[[str], Mapping[str, int]],
    target: Path | str,
    mirror: Mirror,
    *,
    names: Mapping[str, str] | None = None,
    holders: Mapping[str, str] | None = None,
    longest: int | None = None,
    rate: Rate | None = None,
) -> Plan:
    """Decide what a copy does with each object.

    Parameters
    ----------
    series : pyarrow.Table
        ``crdc_series_uuid``, ``aws_bucket``, ``folder``, ``instanceCount`` and
        ``size``, and what the plan is to be counted by.
    listed : iterable of Listed
        What is to be there, for each row of ``series``.
    present : callable
        Gives the size in bytes of each file that is there, by name, for a folder
        below the target. A `PlanError` of it refuses what would go there.
    target : Path or str
        The folder that the copy goes to, or its URL.
    mirror : Mirror
        Where the bytes come from.
    names : mapping, optional
        File names by key; without it they are ``<crdc_instance_uuid>.dcm``.
    holders : mapping, optional
        Which object, by its uuid, lies at a path, as far as that is known. Where names
        do not say it, a file of the right size may be another object: it is kept only
        if it is known to be this one.
    longest : int, optional
        Length that a whole path may have; see `intake_idc.plan.names.path_problem`.
    rate : Rate, optional
        How fast copies from this mirror were.
    """
    rows = _Rows()
    folders = series.column("folder").to_pylist()
    sizes = series.column("size").to_pylist()
    # As it is: to make a path of it for each object takes longer than all else.
    root = target
    returning = _returning(folders)
    seen: dict[str, Mapping[str, int] | PlanError] = {}
    folder_before = None
    here: Mapping[str, int] | PlanError = {}
    for number, (folder, found) in enumerate(zip(folders, listed, strict=True)):
        for error in found.errors:
            rows.unlisted(number, 0 if found.instances else sizes[number] or 0, error)
        if folder != folder_before:
            here = seen[folder] if folder in seen else _present(present, folder)
            if folder in returning:
                seen[folder] = here
            folder_before = folder
        files = [_file(instance, names) for instance in found.instances]
        problem = None
        if files:
            most = max(files, key=lambda name: len(name.encode()))
            problem = path_problem(root, _path(folder, most), longest)
        rows.folder(folder)
        for instance, file in zip(found.instances, files, strict=True):
            reason = ""
            if isinstance(here, PlanError):
                action, reason = _REFUSE, str(here)
            elif problem and (own := path_problem(root, _path(folder, file), longest)):
                action, reason = _REFUSE, own
            else:
                action = _action(instance.size, here.get(file))
                if action == _KEEP and holders is not None:
                    holder = holders.get(_path(folder, file))
                    own = instance.crdc_instance_uuid
                    action = _KEEP if holder == own else _REPLACE
            rows.add(number, action, instance, file, reason)
    return replace(rows.plan(target, series, mirror), rate=rate)


def _returning(folders: Iterable[str]) -> set[str]:
    """Give the folders that come again behind another: what is there is kept of them.

    Most series lie in folders of their own, and what is there may be much.
    """
    found: set[str] = set()
    came: set[str] = set()
    before = None
    for folder in folders:
        if folder != before:
            (found if folder in came else came).add(folder)
            before = folder
    return found


def _present(
    present: Callable[[str], Mapping[str, int]], folder: str
) -> Mapping[str, int] | PlanError:
    try:
        return present(folder)
    except PlanError as error:
        return error


def _path(folder: str, file: str) -> str:
    return f"{folder}/{file}" if folder else file


def _file(instance: Instance, names: Mapping[str, str] | None) -> str:
    if names is not None and instance.key in names:
        return names[instance.key]
    # A store may list names that no file can have.
    return safe_name(instance.crdc_instance_uuid, SUFFIX)


def _action(size: int, found: int | None) -> int:
    if found is None:
        return _FETCH
    return _KEEP if found == size else _REPLACE


class _Rows:
    """Gathers rows, and packs some thousand of them at once."""

    def __init__(self) -> None:
        self._series, self._actions, self._sizes = array("i"), array("b"), array("q")
        self._names: list[str] = []
        self._files: list[str | None] = []
        self._etags: list[str | None] = []
        self._md5s: list[bytes | None] = []
        self._packed: list[list[Any]] = []
        self._keys = array("q")
        self._folders: dict[str, int] = {}
        self._base = ""
        self.reasons: dict[int, str] = {}

    def folder(self, folder: str) -> None:
        """Say in which folder the following rows are."""
        self._base = f"{same(folder)}/" if folder else ""
        parts = folder.split("/") if folder else []
        for end in range(1, len(parts) + 1):
            key = same("/".join(parts[:end]))
            self._folders.setdefault(key, hash(key))

    def add(
        self, series: int, action: int, instance: Instance, file: str, reason: str
    ) -> None:
        """Add an object."""
        if reason:
            self.reasons[len(self._keys)] = reason
        self._keys.append(hash(self._base + _same(file)))
        name = instance.key.split("/", 1)[-1].removesuffix(SUFFIX)
        md5 = bytes.fromhex(instance.md5) if instance.md5 else None
        self._row(series, action, name, file, instance.size, instance.etag, md5)

    def unlisted(self, series: int, size: int, error: IDCError) -> None:
        """Add what stands for objects of a series that are not known."""
        row = len(self._keys)
        self.reasons[row] = str(error)
        self._keys.append(hash(("unlisted", row)))
        self._row(series, _UNLISTED, "", "", size, None, None)

    def _row(
        self,
        series: int,
        action: int,
        name: str,
        file: str,
        size: int,
        etag: str | None,
        md5: bytes | None,
    ) -> None:
        self._series.append(series)
        self._actions.append(action)
        self._names.append(name)
        self._files.append(None if file == f"{name}{SUFFIX}" else file)
        self._sizes.append(size)
        self._etags.append(etag)
        self._md5s.append(md5)
        if len(self._names) == _AT_ONCE:
            self._pack()

    def _pack(self) -> None:
        self._packed.append(
            [
                texts(self._names),
                texts(self._files),
                texts(self._etags),
                packed(self._md5s),
            ]
        )
        for gathered in (self._names, self._files, self._etags, self._md5s):
            gathered.clear()

    def plan(self, target: Path | str, series: pa.Table, mirror: Mirror) -> Plan:
        """Give the plan, in which what would have one path is said to collide."""
        import numpy as np
        import pyarrow as pa

        self._pack()
        actions = np.frombuffer(self._actions, np.int8).copy()
        columns = zip(*self._packed, strict=True)
        name, file, etag, md5 = (pa.chunked_array(chunks) for chunks in columns)
        fixed = {
            "series": _of(self._series, pa.int32()),
            "action": _of(actions, pa.int8()),
            "name": name,
            "file": file,
            "size": _of(self._sizes, pa.int64()),
            "etag": etag,
            "md5": md5,
        }
        plan = Plan(target, series, pa.table(fixed), mirror, self.reasons)
        if self._collide(plan, actions):
            table = plan.objects.set_column(1, "action", _of(actions, pa.int8()))
            return Plan(target, series, table, mirror, self.reasons)
        return plan

    def _collide(self, plan: Plan, actions: np.ndarray[Any, Any]) -> bool:
        """Find rows with one path, and files with the path of a folder."""
        import numpy as np

        keys = np.frombuffer(self._keys, np.int64)
        order = np.argsort(keys, kind="stable")
        twice = keys[order][1:] == keys[order][:-1]
        suspects = set(order[1:][twice].tolist()) | set(order[:-1][twice].tolist())
        folders = np.fromiter(self._folders.values(), np.int64, len(self._folders))
        # numpy's own way loads its masked arrays first, for a hundredth of a second.
        folders.sort()
        at = np.searchsorted(folders, keys).clip(max=len(folders) - 1)
        if len(folders):
            suspects |= set(np.flatnonzero(folders[at] == keys).tolist())
        by_path: dict[str, list[int]] = {}
        for row in sorted(suspects):
            if actions[row] != _UNLISTED:
                by_path.setdefault(same(plan.step(row).path), []).append(row)
        hit = False
        for path, rows in by_path.items():
            if path in self._folders:
                reason = f"{{}} would be {plan.step(rows[0]).path}, which is a folder"
            elif len(rows) > 1:
                one, two = (plan.step(row) for row in rows[:2])
                apart = one.instance.part.crdc_series_uuid
                advice = "put %SeriesInstanceUID or %crdc_series_uuid into dir_template"
                if apart == two.instance.part.crdc_series_uuid:
                    advice = "take file_names='uuid'"
                reason = (
                    f"{one.instance.url} and {two.instance.url} would both be "
                    f"{one.path}; {advice}"
                )
            else:
                continue
            hit = True
            for row in rows:
                actions[row] = _COLLIDE
                url = plan.step(row).instance.url
                self.reasons[row] = reason.replace("{}", url)
        return hit


def _same(file: str) -> str:
    return file.lower() if file.isascii() else same(file)


def _of(values: Any, kind: pa.DataType) -> pa.Array:
    import pyarrow as pa

    buffers = [None, pa.py_buffer(values)]
    return pa.Array.from_buffers(kind, len(values), buffers)
