"""Writing a cohort down: as a manifest, a table, a catalog. Whole, or not at all."""

from __future__ import annotations

import os
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Literal

from intake_idc.errors import RequestError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    import pyarrow as pa

    from intake_idc.manifest import Manifest

__all__ = ["write_catalog", "write_manifest", "write_table"]


def write_manifest(
    path: Path, manifest: Manifest, mirror: Literal["aws", "gcs"], date: str | None
) -> None:
    """Write an s5cmd manifest."""
    from intake_idc.formats import s5cmd

    lines = s5cmd.write(manifest, path.name, mirror=mirror, date=date)
    _write_text(path, "".join(lines))


def write_table(path: Path, table: pa.Table) -> None:
    """Write a table as CSV or Parquet, by the name's ending.

    Raises
    ------
    RequestError
        The name ends in neither.
    """
    from pyarrow import csv, parquet

    writers = {".csv": csv.write_csv, ".parquet": parquet.write_table}
    if path.suffix not in writers:
        msg = f"a table ends in .csv or .parquet; got {path.name!r}"
        raise RequestError(msg)
    with _beside(path) as part:
        writers[path.suffix](table, part)


def write_catalog(
    path: Path, name: str, driver: str, arguments: Mapping[str, Any], description: str
) -> None:
    """Write an Intake catalog of one entry.

    Raises
    ------
    RequestError
        A value holds template signs, which Intake would evaluate.
    """
    import yaml

    entry = {"driver": driver, "description": description, "args": dict(arguments)}
    catalog = {
        "metadata": {"version": 1, "idc_version": arguments["idc_version"]},
        "plugins": {"source": [{"module": "intake_idc"}]},
        "sources": {name: entry},
    }
    _write_text(path, yaml.safe_dump(catalog, sort_keys=False))


def refuse_templates(value: Any) -> None:
    """Refuse what Intake would run through its template engine."""
    if isinstance(value, str) and ("{{" in value or "{%" in value):
        msg = (
            f"{value!r} holds template signs, which Intake evaluates when it opens "
            "a catalog; write such a cohort as a manifest"
        )
        raise RequestError(msg)
    if isinstance(value, dict):
        value = [*value, *value.values()]
    for item in value if isinstance(value, list) else ():
        refuse_templates(item)


@contextmanager
def _beside(path: Path) -> Iterator[Path]:
    """Give a file beside a path, which takes its place when it is whole."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        yield part
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


def _write_text(path: Path, text: str) -> None:
    with _beside(path) as part:
        part.write_bytes(text.encode())
