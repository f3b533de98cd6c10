"""``idc://``: the releases of IDC as one read-only tree, for everything fsspec serves.

.. code-block:: text

    idc://v25/<collection_id>/<PatientID>/<StudyInstanceUID>/<SeriesInstanceUID>/
        <crdc_instance_uuid>.dcm

``current`` and ``latest`` stand for the newest release, and are replaced by its
number before anything is looked up, so that no cache keeps bytes under a name that
moves. Folders are read from the tables of the release; only what is inside a series
is asked of the mirror, and held against the tables. A listing is kept for as long as
the file system lives, because a release never changes.

A name that would not do as one part of a path is written with ``%``: ``/`` is
``%2F``, ``%`` itself ``%25``, and a null is ``%null``.
"""

from __future__ import annotations

import asyncio
import errno
import functools
import os
import re
from bisect import bisect_left
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice, repeat
from operator import itemgetter
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar

from fsspec.asyn import AbstractAsyncStreamedFile, AsyncFileSystem
from fsspec.callbacks import DEFAULT_CALLBACK
from fsspec.spec import AbstractBufferedFile

from intake_idc.errors import (
    IntegrityError,
    ObjectNotFound,
    UnknownRelease,
    nearest,
)
from intake_idc.filesystem.objects import Info, fetch, read_range
from intake_idc.filesystem.paths import (
    COLUMNS,
    admission,
    before_any_depth,
    check_depth,
    depth_of,
    literal,
    quote,
    selected,
    stripped,
)
from intake_idc.manifest import Part
from intake_idc.release import open_release
from intake_idc.storage import REQUESTS, instances, resolve_mirror

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence

    from fsspec.callbacks import Callback

    from intake_idc.release import Release
    from intake_idc.storage import EngineName, Instance, Mirror

__all__ = ["IDCFileSystem"]

Result = TypeVar("Result")

NOUNS = ("release", "collection", "patient", "study", "series", "instance")
"""What each part of a path names."""

RELEASE, PATIENT, SERIES, INSTANCE = 1, 3, 5, 6
"""Number of parts in the path of each."""

MOVING = ("current", "latest")
"""Names of the newest release."""

_EXACT = "row_source = 'idc_index' AND series_size_MB IS NOT NULL"
"""Series of which the tables know every byte; see `intake_idc.manifest.Part`."""

BATCH = 512
"""Series that are listed before the next are begun."""


class IDCFileSystem(AsyncFileSystem):
    """The releases of IDC as a read-only tree.

    Making one reads nothing. Access is anonymous; see `intake_idc.Mirror` for a
    place that needs credentials.

    Parameters
    ----------
    tables : str or path, optional
        Where the index tables are: None for the installed ``idc-index-data``,
        "sample" for the embedded sample, else a folder or a URL.
    mirror : str, path or Mirror, optional
        Where the objects are read: "aws", "gcs", a folder, a URL. The embedded
        sample is its own mirror.
    endpoint_url : str, optional
        Address of an S3 or GCS server.
    engine : "obstore" or "fsspec", optional
        What carries the bytes; None takes the faster one that can.
    **options
        fsspec's own: ``asynchronous``, ``loop``, ``batch_size``,
        ``use_listings_cache``, ``max_paths``, ...

    Examples
    --------
    >>> import fsspec
    >>> fs = fsspec.filesystem("idc")
    >>> fs.ls("idc://v25/rider_pilot", detail=False)[0]
    'v25/rider_pilot/1.3.6.1.4.1.9328.50.1.0109'
    >>> fs.du("idc://v25/rider_pilot")
    11259208456
    """

    protocol = "idc"
    cachable = True

    def __init__(
        self,
        tables: str | os.PathLike[str] | None = None,
        mirror: str | os.PathLike[str] | Mirror | None = None,
        endpoint_url: str | None = None,
        engine: EngineName | None = None,
        **options: Any,
    ) -> None:
        super().__init__(**options)
        self.tables = tables
        self.mirror = mirror
        self.endpoint_url = endpoint_url
        self.engine = engine
        self._newest: int | None = None
        self._waiting: dict[str, Future[Any]] = {}
        # As fsspec's caching file systems do: which release is the newest is known to
        # an instance, with its tables, and not to the class.
        self._strip_protocol = self._strip_and_pin  # type: ignore[method-assign]

    def __dask_tokenize__(self) -> tuple[object, ...]:
        # fsspec's own token holds the process id.
        place = self.tables, self.mirror, self.endpoint_url, self.engine
        return "intake_idc.IDCFileSystem", *map(str, place)

    # Paths.

    @classmethod
    def _strip_protocol(cls, path: Any) -> Any:
        """Take protocol and superfluous slashes off a path, or off each of a list.

        The class knows no tables, so "current" stays here; an instance replaces it
        in whatever it is asked, and so before a layer above it makes a key of it.
        """
        if isinstance(path, list):
            return [stripped(one) for one in path]
        return stripped(path)

    def _strip_and_pin(self, path: Any) -> Any:
        """Do as the class does, and put the number of the newest release in.

        The file system's own event loop is never made to wait for the tables: there
        the name stays, and `_know_newest` has been awaited before.
        """
        if isinstance(path, list):
            return [self._strip_and_pin(one) for one in path]
        text = stripped(path)
        first, slash, rest = text.partition("/")
        if first not in MOVING:
            return text
        if self._newest is None:
            if _running_loop() is self._loop is not None:
                return text
            self._find_newest()
        return f"v{self._newest}{slash}{rest}"

    def _find_newest(self) -> None:
        self._newest = open_release("current", self.tables).idc_version

    async def _know_newest(self, path: Any) -> None:
        """Find the newest release in a thread, where a path asks for it."""
        paths = [path] if isinstance(path, str | os.PathLike) else path
        for one in paths if self._newest is None else ():
            if stripped(one).partition("/")[0] in MOVING:
                await self._away(self._find_newest)
                break

    async def _pinned(self, path: Any) -> str:
        await self._know_newest(path)
        return str(self._strip_protocol(path))

    def unstrip_protocol(self, name: str) -> str:
        """Give the full URL of a path, with the number of its release."""
        return f"idc://{self._strip_protocol(name)}"

    # Threads. Everything that waits runs in one, and none of it waits for another.

    async def _away(self, function: Callable[..., Result], *args: Any) -> Result:
        """Run a function in a thread."""
        return await asyncio.wrap_future(_pool(os.getpid()).submit(function, *args))

    async def _once(
        self, key: str, function: Callable[..., Result], *args: Any
    ) -> Result:
        """Run a function in a thread, once for all who ask for the same meanwhile."""
        future: Future[Result] | None = self._waiting.get(key)
        if future is None:
            future = self._waiting[key] = _pool(os.getpid()).submit(function, *args)
            future.add_done_callback(lambda _: self._waiting.pop(key, None))
        return await asyncio.shield(asyncio.wrap_future(future))

    # What is there, from the tables.

    def _release(self, name: str) -> Release | None:
        """Open a release by its name in a path; None where there is none."""
        number = re.fullmatch(r"v([1-9][0-9]{0,5})", name)
        try:
            return open_release(int(number[1]), self.tables) if number else None
        except UnknownRelease:
            return None

    def _releases(self) -> list[Info]:
        release = open_release("current", self.tables)
        newest = release.idc_version
        rebuilt = "prior_versions_index" in release.table_names
        return [_folder(f"v{n}") for n in range(1 if rebuilt else newest, newest + 1)]

    def _folders(
        self, folder: str, depth: int, pattern: Sequence[str] = ()
    ) -> dict[str, list[Info]]:
        """List a folder and the folders in it, down to a depth, by one query.

        Parts of a pattern that stand for themselves narrow the query. A folder that
        is not there has no entry in what is given.
        """
        name, *known = folder.split("/")
        release = self._release(name)
        if release is None:
            return {}
        above = len(known) + 1
        fixed = [*known, *map(literal, islice(pattern, above, depth))]
        columns = COLUMNS[: depth - 1]
        values: Iterable[tuple[Any, ...]]
        parts: Iterable[Part | None]
        if depth == SERIES:
            manifest = release.manifest(selected(fixed), columns, strict=False)
            cells = (manifest.table.column(c).to_pylist() for c in columns)
            values, parts = zip(*cells, strict=True), manifest.parts()
        else:
            values = release.rows(columns, selected(fixed), distinct=True, strict=False)
            parts = repeat(None)
        found: dict[str, dict[str, Info]] = {}
        for row, part in zip(values, parts, strict=False):
            path = name
            for level, value in enumerate(row, RELEASE + 1):
                parent, path = path, f"{path}/{quote(value)}"
                if level <= above:
                    continue
                inside = found.setdefault(parent, {})
                if level == SERIES and part is not None:
                    if path in inside:
                        msg = f"the tables of {release.source} hold idc://{path} twice"
                        raise IntegrityError(msg, path=path)
                    inside[path] = _series(path, part)
                elif path not in inside:
                    inside[path] = _folder(path)
        return {path: sorted(i.values(), key=_name) for path, i in found.items()}

    def _objects(self, series: Info) -> list[Info]:
        """List a series in the mirror, and hold it against the tables."""
        listed = instances([_part(series)], self._mirror)
        return [_file(series["name"], instance) for instance in listed]

    def _bytes_below(self, folder: str) -> int:
        """Add up sizes: those of the tables where they are exact, else the mirror's."""
        name, *known = folder.split("/")
        release = self._release(name)
        if release is None:
            return 0
        every = selected(known)
        size = "coalesce(sum(round(series_size_MB * 1e6)), 0)::BIGINT"
        exact = release.aggregate(size, every.query(_EXACT))[0][0]
        rest = release.manifest(every.query(f"NOT ({_EXACT})"), (), strict=False)
        return int(exact) + sum(i.size for i in instances(rest.parts(), self._mirror))

    @functools.cached_property
    def _mirror(self) -> Mirror:
        mirror = self.mirror
        if mirror is None and str(self.tables) == "sample":
            mirror = "sample"
        return resolve_mirror(
            mirror, endpoint_url=self.endpoint_url, engine=self.engine
        )

    # The same, kept. Each value of `dircache` is sorted by name, releases by number.

    async def _children(self, folder: str) -> list[Info] | None:
        """Give what a folder holds; None where there is no such folder."""
        kept: list[Info] | None = self.dircache.get(folder)
        if kept is not None:
            return kept
        depth = depth_of(folder)
        if depth >= INSTANCE:
            return None
        if depth == SERIES:
            series = await self._entry(folder)
            return None if series is None else await self._inside(series)
        if depth == 0:
            listings = {folder: await self._once(folder, self._releases)}
        else:
            # A patient is read whole: that is one query, and about ten rows.
            top = "/".join(folder.split("/")[:PATIENT])
            below = SERIES if depth >= PATIENT else depth + 1
            listings = await self._once(top, self._folders, top, below)
        self.dircache.update(listings)
        return listings.get(folder)

    async def _inside(self, series: Info) -> list[Info]:
        """Give the objects of a series."""
        folder = series["name"]
        kept: list[Info] | None = self.dircache.get(folder)
        if kept is None:
            kept = await self._once(folder, self._objects, series)
            self.dircache[folder] = kept
        return kept

    async def _entry(self, path: str) -> Info | None:
        """Give the details of a path; None where there is no such path."""
        if not path:
            return _folder(path)
        parent = path.rpartition("/")[0]
        siblings = await self._children(parent) or []
        if not parent:
            return next((info for info in siblings if info["name"] == path), None)
        at = bisect_left(siblings, path, key=_name)
        found = at < len(siblings) and siblings[at]["name"] == path
        return siblings[at] if found else None

    async def _existing(self, path: str) -> Info:
        entry = await self._entry(path)
        if entry is None:
            raise await self._missing(path)
        return entry

    async def _file(self, path: Any) -> Info:
        entry = await self._existing(await self._pinned(path))
        if entry["type"] == "directory":
            raise _is_folder(entry)
        return entry

    async def _missing(self, path: str) -> ObjectNotFound:
        """Say which part of a path is the first that is not there."""
        parts = path.split("/")
        for depth, part in enumerate(parts[:INSTANCE]):
            folder = "/".join(parts[:depth])
            names = [_base(info) for info in await self._children(folder) or ()]
            if part not in names:
                few = ", ".join(map(repr, names[:3])) + (", ..." if names[3:] else "")
                near = nearest(part, names) or f"; there are {few}"
                msg = f"no {NOUNS[depth]} {part!r} in idc://{folder}{near}"
                return ObjectNotFound(msg, path=path)
        msg = f"nothing is below an instance: idc://{path}"
        return ObjectNotFound(msg, path=path)

    async def _below(
        self, folder: str, depth: int, pattern: str | None
    ) -> dict[str, Info]:
        """Give all that is below a folder, down to a depth, and may fit a pattern."""
        admits = admission(pattern)
        found: dict[str, Info] = {}
        start = depth_of(folder)
        if start == 0:
            for info in await self._children(folder) or ():
                if admits(info["name"]):
                    found[info["name"]] = info
                    if depth > RELEASE:
                        found |= await self._below(info["name"], depth, pattern)
            return found
        if start == SERIES:
            series = [await self._existing(folder)]
        else:
            parts = before_any_depth(pattern)
            bottom = min(depth, SERIES)
            listings = await self._away(self._folders, folder, bottom, parts)
            if not any(map(literal, islice(parts, start, bottom))):
                self.dircache.update(listings)
            every = (info for listing in listings.values() for info in listing)
            found = {info["name"]: info for info in every if admits(info["name"])}
            series = [info for info in found.values() if "crdc_series_uuid" in info]
        for first in range(0, len(series) if depth == INSTANCE else 0, BATCH):
            batch = map(self._inside, series[first : first + BATCH])
            for objects in await asyncio.gather(*batch):
                found |= {o["name"]: o for o in objects if admits(o["name"])}
        return found

    def invalidate_cache(self, path: str | None = None) -> None:
        """Forget the listings of a path and below; None forgets all."""
        folder = "" if path is None else self._strip_protocol(path)
        for known in list(self.dircache):
            if not folder or known == folder or known.startswith(f"{folder}/"):
                self.dircache.pop(known, None)
        super().invalidate_cache(path)

    # Reading, as fsspec asks for it.

    async def _info(self, path: Any, **_: Any) -> Info:
        """Give the details of a path; asks the mirror for an instance only.

        Raises
        ------
        ObjectNotFound
            There is no such path; the message names the nearest.
        """
        return dict(await self._existing(await self._pinned(path)))

    async def _ls(self, path: Any, detail: bool = True, **_: Any) -> list[Any]:
        """List a folder, or a file as itself.

        Raises
        ------
        ObjectNotFound
            There is no such path; the message names the nearest.
        IntegrityError
            The mirror lists other objects than the tables say.
        """
        folder = await self._pinned(path)
        listing = await self._children(folder)
        if listing is None:
            listing = [await self._existing(folder)]
        return [dict(info) if detail else info["name"] for info in listing]

    async def _exists(self, path: Any, **_: Any) -> bool:
        try:
            return await self._entry(await self._pinned(path)) is not None
        except FileNotFoundError:
            return False

    async def _isfile(self, path: Any) -> bool:
        """Say whether a path is a file; a mirror that fails is an error, not a no."""
        pinned = await self._pinned(path)
        return depth_of(pinned) == INSTANCE and await self._exists(pinned)

    async def _walk(
        self,
        path: Any,
        maxdepth: int | None = None,
        topdown: bool = True,
        on_error: str | Callable[[OSError], Any] = "raise",
        **kwargs: Any,
    ) -> AsyncIterator[tuple[str, Any, Any]]:
        """Give each folder with what it holds, listing as it goes.

        Unlike fsspec's own, ``on_error`` is "raise" unless told otherwise, and holds
        at every depth: a series that cannot be listed is no empty series.
        """
        check_depth(maxdepth)
        folder = await self._pinned(path)
        detail = kwargs.get("detail", False)
        try:
            listing = await self._ls(folder)
        except OSError as error:
            if on_error == "raise":
                raise
            if callable(on_error):
                on_error(error)
            listing = []
        folders = {_base(i): i for i in listing if i["type"] == "directory"}
        files = {
            "" if i["name"] == folder else _base(i): i
            for i in listing
            if i["type"] == "file"
        }
        here = (
            (folder, folders, files) if detail else (folder, list(folders), list(files))
        )
        if topdown:
            yield here
        deeper = None if maxdepth is None else maxdepth - 1
        # Whoever walks may have taken names out meanwhile.
        for name in here[1] if deeper != 0 else ():
            below = f"{folder}/{name}" if folder else name
            async for step in self._walk(
                below, deeper, topdown, on_error, detail=detail
            ):
                yield step
        if not topdown:
            yield here

    async def _find(
        self,
        path: Any,
        maxdepth: int | None = None,
        withdirs: bool = False,
        **kwargs: Any,
    ) -> Any:
        """Give every file below a path: one query, and the series listed together.

        Raises
        ------
        ObjectNotFound
            There is no such path, or the mirror lacks a series.
        IntegrityError, StorageError
            A series cannot be listed, or not as the tables say.
        """
        check_depth(maxdepth)
        folder = await self._pinned(path)
        pattern = kwargs.get("pattern")
        entry = await self._entry(folder)
        if entry is None and pattern is None:
            raise await self._missing(folder)
        found: dict[str, Info] = {}
        if entry is not None and entry["type"] == "file":
            found = {folder: entry}
        elif entry is not None:
            depth = INSTANCE if maxdepth is None else depth_of(folder) + maxdepth
            found = await self._below(folder, min(depth, INSTANCE), pattern)
            if folder:
                found[folder] = entry
        kept = {
            name: dict(found[name])
            for name in sorted(found)
            if withdirs or found[name]["type"] == "file"
        }
        return kept if kwargs.get("detail", False) else list(kept)

    async def _glob(self, path: str, maxdepth: int | None = None, **kwargs: Any) -> Any:
        """Give the paths that fit a pattern; only what may fit is listed.

        A part without ``*``, ``?`` or ``[`` narrows the query wherever it stands, so
        a series is found by ``idc://v25/*/*/*/<SeriesInstanceUID>``.
        """
        kwargs["pattern"] = await self._pinned(path)
        return await super()._glob(path, maxdepth=maxdepth, **kwargs)

    async def _du(
        self,
        path: Any,
        total: bool = True,
        maxdepth: int | None = None,
        **kwargs: Any,
    ) -> Any:
        """Add up the bytes below a path.

        The total of a folder is taken from the tables. They are exact but for series
        that a later release superseded, which are listed.
        """
        folder = await self._pinned(path)
        if not total or maxdepth is not None or depth_of(folder) >= SERIES:
            return await super()._du(folder, total=total, maxdepth=maxdepth, **kwargs)
        await self._existing(folder)
        folders = [folder] if folder else await self._ls("", detail=False)
        return sum([await self._away(self._bytes_below, one) for one in folders])

    async def _expand_path(self, path: Any, *args: Any, **kwargs: Any) -> Any:
        await self._know_newest(path)
        return await super()._expand_path(path, *args, **kwargs)

    async def _cat(self, path: Any, recursive: bool = False, **kwargs: Any) -> Any:
        """Read many objects at once; folders have no bytes, so only files count."""
        if recursive:
            found = await self._expand_path(path, recursive=True)
            files = [one for one in found if depth_of(one) == INSTANCE]
            path = path if files == [self._strip_protocol(path)] else files
        return await super()._cat(path, **kwargs)

    async def _cat_file(
        self, path: Any, start: int | None = None, end: int | None = None, **_: Any
    ) -> bytes:
        """Read an object, or a range of it, counted as a slice is.

        Raises
        ------
        ObjectNotFound
            There is no such path, or the mirror lacks the object.
        WrongSize
            The mirror gave another number of bytes than it had listed.
        """
        info = await self._file(path)
        first, last, _step = slice(start, end).indices(info["size"])
        return await self._away(read_range, self._mirror, info, first, last)

    async def _get(self, rpath: Any, *args: Any, **kwargs: Any) -> Any:
        await self._know_newest(rpath)
        return await super()._get(rpath, *args, **kwargs)

    async def _get_file(
        self,
        rpath: Any,
        lpath: str | os.PathLike[str],
        callback: Callback = DEFAULT_CALLBACK,
        **_: Any,
    ) -> None:
        """Copy an object; the file appears under its name only when it is whole.

        Raises
        ------
        ObjectNotFound
            There is no such path, or the mirror lacks the object.
        WrongSize
            The mirror gave another number of bytes than it had listed.
        """
        info = await self._existing(await self._pinned(rpath))
        if info["type"] == "directory":
            await self._away(functools.partial(os.makedirs, exist_ok=True), lpath)
        else:
            await self._away(fetch, self._mirror, info, Path(lpath), callback)

    def _open(
        self,
        path: str,
        mode: str = "rb",
        block_size: int | None = None,
        autocommit: bool = True,  # noqa: ARG002  (fsspec's signature)
        cache_options: Mapping[str, Any] | None = None,
        **kwargs: Any,
    ) -> AbstractBufferedFile:
        if mode != "rb":
            raise _read_only()
        info = self.info(path)
        if info["type"] == "directory":
            raise _is_folder(info)
        options = {"cache_options": cache_options, **kwargs, "size": info["size"]}
        return AbstractBufferedFile(self, info["name"], mode, block_size, **options)

    async def open_async(
        self, path: Any, mode: str = "rb", **kwargs: Any
    ) -> AbstractAsyncStreamedFile:
        """Open an object for reading with ``await file.read(...)``."""
        if mode != "rb":
            raise _read_only()
        info = await self._file(path)
        options = {**kwargs, "size": info["size"]}
        return _AsyncFile(self, info["name"], mode, **options)

    # Writing: nothing does. fsspec's own would pass over some of these in silence.
    # fsspec makes the methods without the underscore from these, where there are any.

    async def _refuse(self, *_: Any, **__: Any) -> NoReturn:
        raise _read_only()

    _mkdir = _makedirs = _rm = _rm_file = _copy = _cp_file = _mv_file = _refuse
    _pipe = _pipe_file = _put = _put_file = _refuse

    def rmdir(self, *_: Any, **__: Any) -> NoReturn:
        """Raise OSError: IDC is read-only."""
        raise _read_only()

    mv = touch = rmdir


class _AsyncFile(AbstractAsyncStreamedFile):
    """An object that is read by whoever is in an event loop."""

    async def _fetch_range(self, start: int, end: int) -> bytes:
        data: bytes = await self.fs._cat_file(self.path, start, end)  # noqa: SLF001
        return data


@functools.cache
def _pool(_pid: int) -> ThreadPoolExecutor:
    # Not that of `storage`, which `instances` waits for.
    return ThreadPoolExecutor(REQUESTS, thread_name_prefix="intake-idc-fs")


def _running_loop() -> asyncio.AbstractEventLoop | None:
    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        return None


# Details of a path.

_name = itemgetter("name")


def _base(info: Info) -> str:
    return str(info["name"]).rpartition("/")[2]


def _folder(path: str) -> Info:
    return {"name": path, "size": 0, "type": "directory"}


def _series(path: str, part: Part) -> Info:
    return {
        **_folder(path),
        "crdc_series_uuid": part.crdc_series_uuid,
        "aws_bucket": part.aws_bucket,
        "instanceCount": part.instanceCount,
        "series_size": part.size,
        "size_tolerance": part.size_tolerance,
    }


def _part(series: Info) -> Part:
    return Part(
        series["crdc_series_uuid"],
        series["aws_bucket"],
        instanceCount=series["instanceCount"],
        size=series["series_size"],
        size_tolerance=series["size_tolerance"],
    )


def _file(folder: str, instance: Instance) -> Info:
    info = {
        "name": f"{folder}/{instance.crdc_instance_uuid}.dcm",
        "size": instance.size,
        "type": "file",
        "crdc_series_uuid": instance.part.crdc_series_uuid,
        "aws_bucket": instance.part.aws_bucket,
        "url": instance.url,
    }
    return info if instance.etag is None else {**info, "ETag": instance.etag}


def _is_folder(info: Info) -> IsADirectoryError:
    path = f"idc://{info['name']}"
    return IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), path)


def _read_only() -> OSError:
    return OSError(errno.EROFS, "IDC is read-only; nothing can be written to idc://")
