"""The caches: ``cache show``, ``build``, ``clear`` of tables, ``cache objects``."""

from __future__ import annotations

import click

from intake_idc import cache as kept
from intake_idc import display
from intake_idc.cli import output as out
from intake_idc.cli.options import LocalPath, json_option, tables_option
from intake_idc.errors import RequestError

__all__ = ["cache"]


@click.group()
def cache() -> None:
    """Show, build and clear the cache of index tables; it holds no DICOM.

    That of objects is a folder of its own; see 'objects'.

    INTAKE_IDC_CACHE names its folder, or is 'off'; INTAKE_IDC_CACHE_SIZE bounds it.
    """


@cache.command("show")
@json_option
def show(as_json: bool) -> None:
    """Show the folder of the cache, its bound, and what is in it."""
    place, held = kept.folder(), kept.entries()
    kinds: dict[str, list[int]] = {}
    for entry in held:
        kinds.setdefault(entry.name.partition("/")[0], []).append(entry.size)
    if as_json:
        facts = {
            "folder": place,
            "limit": kept.limit(),
            "files": len(held),
            "bytes": sum(entry.size for entry in held),
            "kinds": {
                kind: {"files": len(sizes), "bytes": sum(sizes)}
                for kind, sizes in sorted(kinds.items())
            },
        }
        out.as_json(facts)
        return
    size = sum(entry.size for entry in held)
    items = [
        (
            "folder",
            "none: it is off, or cannot be written to" if place is None else place,
        ),
        ("bound", display.bytes_text(kept.limit())),
        ("files", f"{len(held):,}"),
        ("size", display.bytes_text(size)),
        *(
            (kind, f"{len(sizes):,} of {display.bytes_text(sum(sizes))}")
            for kind, sizes in sorted(kinds.items())
        ),
    ]
    click.echo(display.pairs("Cache of index tables", items))


@cache.command("build")
@tables_option
def build(tables: str | None) -> None:
    """Lay the tables out to be asked quickly; takes some seconds.

    The answers are the same, and come sooner. Nothing needs it.
    """
    from intake_idc.release import build_cache

    path = build_cache(tables)
    click.echo(f"{path}\n{display.bytes_text(path.stat().st_size)}")


@cache.command("clear")
def clear() -> None:
    """Delete everything in the cache; it is made again when it is needed."""
    click.echo(f"freed {display.bytes_text(kept.clear())}")


@cache.command("objects")
@click.argument("folder", required=False, type=LocalPath(file_okay=False))
@click.option("--clear", "empty", is_flag=True, help="Delete every object in it.")
@json_option
def objects(folder: str | None, empty: bool, as_json: bool) -> None:
    """Show the cache of objects in FOLDER, or that of INTAKE_IDC_OBJECT_CACHE."""
    from intake_idc.storage.kept import FOLDER_VARIABLE, object_cache

    found = object_cache(folder, None, environment=True)
    if found is None:
        msg = f"no cache of objects is named: give FOLDER, or set {FOLDER_VARIABLE}"
        raise RequestError(msg)
    freed = found.clear() if empty else None
    facts = {
        "folder": found.folder,
        "limit": found.size,
        "files": len(found),
        "bytes": found.size_now(),
    }
    if as_json:
        out.as_json(facts if freed is None else {**facts, "freed": freed})
    elif freed is not None:
        click.echo(f"freed {display.bytes_text(freed)}")
    else:
        items = [
            ("folder", found.folder),
            ("bound", display.bytes_text(found.size)),
            ("objects", f"{len(found):,}"),
            ("size", display.bytes_text(found.size_now())),
        ]
        click.echo(display.pairs("Cache of objects", items))
