"""Places that objects are put to: buckets of S3 and GCS, and whatever fsspec writes.

An object appears whole or not at all. S3 and GCS see to that themselves; elsewhere it
is written beside its place and moved there. What the store says of it afterwards, its
size and its MD5 where it tells one, is held against what was sent.
"""

from __future__ import annotations

import base64
import functools
import hashlib
import io
import json
import logging
import os
import re
import secrets
import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, NamedTuple
from urllib.parse import quote

from intake_idc.errors import (
    AccessDenied,
    IntegrityError,
    ObjectNotFound,
    PlanError,
    StorageError,
    WrongSize,
)
from intake_idc.files import part_name
from intake_idc.storage.choosing import open_store
from intake_idc.storage.engine import Stored, translated
from intake_idc.storage.filesystems import filesystem
from intake_idc.storage.retrying import Patience, Retrying

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import TypeVar

    from intake_idc.storage.mirror import Mirror

    Result = TypeVar("Result")

__all__ = ["Copied", "TargetStore", "Upload", "check_copied", "open_target"]

log = logging.getLogger(__name__)

BLOCK = 8 << 20
"""Bytes that are sent at once of an object that is larger."""
PARTS = 10_000
"""Parts that an object of S3 may have."""
COPIED_WHOLE = 5 << 30
"""Bytes that S3 copies by one request."""
COPIED_AT_ONCE = 1 << 30
"""Bytes of a part of a larger copy."""

_MD5 = re.compile(r"[0-9a-f]{32}")
_NO_CREDENTIALS = re.compile("NoCredentials|PartialCredentials|TokenRetrieval|Refresh")


class Copied(NamedTuple):
    """What a store says of an object that it holds."""

    size: int
    """Bytes."""
    md5: str | None = None
    """MD5 in hex, where it tells one."""


class Upload:
    """An object that is sent in blocks, and is there when the last has come."""

    def send(self, block: bytes) -> None:
        """Send a block of `TargetStore.block` bytes."""
        raise NotImplementedError

    def finish(self, last: bytes) -> Copied:
        """Send the last block, which may be shorter, and put the object there.

        Parameters
        ----------
        last : bytes
            At least one byte.
        """
        raise NotImplementedError

    def abort(self) -> None:
        """Give it up; nothing of it stays."""
        raise NotImplementedError


class TargetStore:
    """A folder of a store, to which objects are put. Threads may share it.

    Keys are below its root, with ``/`` between the parts. Errors are those of
    `intake_idc.storage.Store`; requests are made again where that may help.

    Parameters
    ----------
    mirror : Mirror
        Where it is; its root is the folder.
    """

    def __init__(self, mirror: Mirror) -> None:
        self.mirror = mirror
        self._files = filesystem(mirror)
        wait = mirror.retry_timeout
        patience = Patience(first=min(Patience.first, wait), served=wait)
        self._retrying = Retrying(patience)
        bucket, _, self._prefix = mirror.root.split("://", 1)[1].partition("/")
        self._bucket = bucket

    def url(self, key: str) -> str:
        """Give the URL of a key."""
        return f"{self.mirror.root}/{key}" if key else self.mirror.root

    def block(self, size: int) -> int:  # noqa: ARG002  (of S3 it does matter)
        """Give the bytes of a block of an object with so many bytes."""
        return BLOCK

    def is_empty(self) -> bool:
        """Whether nothing is there."""
        return not self.listed("")

    def listed(self, folder: str) -> dict[str, Stored]:
        """Give the objects right in a folder, by name.

        Raises
        ------
        PlanError
            The bucket is not there, or the folder is an object.
        """
        raise NotImplementedError

    def stat(self, key: str) -> Copied:
        """Give what the store says of an object."""
        raise NotImplementedError

    def put(self, key: str, data: bytes) -> Copied:
        """Put an object there by one request."""
        raise NotImplementedError

    def begin(self, key: str, size: int) -> Upload:
        """Begin an object that is sent in blocks."""
        raise NotImplementedError

    def copy(self, source: str, key: str, size: int, etag: str | None) -> Copied:
        """Let the store copy an object of its own kind, which moves no byte here.

        Parameters
        ----------
        source : str
            URL of the object.
        key : str
            Where it goes.
        size : int
            Its bytes.
        etag : str, optional
            Its tag.

        Raises
        ------
        StorageError
            The store cannot, or the object is another by now.
        """
        version = f" ({etag})" if etag else ""
        msg = f"{self.url(key)} cannot copy the {size:,} bytes of {source}{version}"
        raise StorageError(msg, url=source, transient=False)

    def read(self, key: str) -> bytes | None:
        """Give a small object; None where there is none."""
        try:
            return open_store(self.mirror, "").read(key)
        except ObjectNotFound:
            return None

    def remove(self, key: str) -> None:
        """Remove an object; nothing happens where there is none."""
        try:
            self._call(key, lambda: self._files.rm_file(self._path(key)))
        except ObjectNotFound:
            return

    def _path(self, key: str) -> str:
        root = f"{self._bucket}/{self._prefix}".rstrip("/")
        return f"{root}/{key}" if key else root

    def _key(self, key: str) -> str:
        """Give a key as the bucket knows it."""
        return f"{self._prefix}/{key}".strip("/") if self._prefix else key

    def _call(self, key: str, function: Callable[[], Result]) -> Result:
        def once() -> Result:
            with _translated(self.url(key)):
                return function()

        return self._retrying.call(once)

    def _check_md5(self, key: str, md5: str, found: str | None) -> None:
        if found is not None and found != md5:
            url = self.url(key)
            msg = f"{url}: the store says that its MD5 is {found}, sent was {md5}"
            raise IntegrityError(msg, url=url, got=found)

    def _no_bucket(self, error: Exception) -> PlanError:
        msg = f"there is no bucket {self._bucket!r} for {self.mirror.root}; make it"
        return PlanError(f"{msg} before the copy ({error})", path=self.mirror.root)


@contextmanager
def _translated(url: str) -> Iterator[None]:
    with translated(url):
        try:
            yield
        except Exception as error:
            # gcsfs calls a status of 403 so, and boto what nobody signed.
            denied = isinstance(error, OSError) and str(error).startswith("Forbidden")
            if denied or _NO_CREDENTIALS.match(type(error).__name__):
                what = str(error).splitlines()[0] if str(error) else ""
                msg = (
                    f"{url}: the store denies access ({what or 'no reason'}); "
                    "credentials are looked for where the store's own tools do"
                )
                raise AccessDenied(msg, url=url) from error
            raise


# S3.


class _S3(TargetStore):
    def block(self, size: int) -> int:
        # A thousand blocks fewer than may be, in whole mebibytes.
        least = -(-size // (PARTS - 1_000))
        return max(BLOCK, -(-least // (1 << 20)) << 20)

    def ask(self, key: str, method: str, **named: Any) -> Any:
        """Send one request about a key, again where that may help."""
        own = {"Bucket": self._bucket, "Key": self._key(key), **named}
        return self._call(key, lambda: self._files.call_s3(method, **own))

    def is_empty(self) -> bool:
        return not any(self._pages("", MaxKeys=1))

    def listed(self, folder: str) -> dict[str, Stored]:
        found: dict[str, Stored] = {}
        for item in self._pages(folder, Delimiter="/"):
            name = item["Key"].rpartition("/")[2]
            if name:
                found[name] = Stored(name, item["Size"], item.get("ETag"))
        return found

    def _pages(self, folder: str, **named: Any) -> Iterator[Any]:
        prefix = self._key(folder)
        asked = {"Prefix": f"{prefix}/" if prefix else "", **named}
        asked["Bucket"] = self._bucket
        while True:
            try:
                page = self._call(
                    folder, lambda: self._files.call_s3("list_objects_v2", **asked)
                )
            except ObjectNotFound as error:
                raise self._no_bucket(error) from error
            yield from page.get("Contents", ())
            if "MaxKeys" in named or not page.get("IsTruncated"):
                return
            asked["ContinuationToken"] = page["NextContinuationToken"]

    def stat(self, key: str) -> Copied:
        found = self.ask(key, "head_object")
        return Copied(found["ContentLength"], _md5_of(found))

    def put(self, key: str, data: bytes) -> Copied:
        md5 = hashlib.md5(data, usedforsecurity=False)
        found = self.ask(key, "put_object", Body=data, ContentMD5=_coded(md5.digest()))
        return self.sent(key, found, md5.hexdigest(), len(data))

    def sent(self, key: str, found: Any, etag: str, size: int) -> Copied:
        """Hold what was sent against what the store says of it."""
        if _bare(found) == etag:
            return Copied(size, etag)
        # The tag of what is encrypted says nothing of its bytes, nor does one of
        # another form; each request was held by the store against its MD5.
        plain = not {"ServerSideEncryption", "SSECustomerAlgorithm"} & set(found)
        if plain and _form(_bare(found)) == _form(etag):
            try:
                self._check_md5(key, etag, _bare(found))
            except IntegrityError:
                self.remove(key)
                raise
        return self.stat(key)._replace(md5=None)

    def begin(self, key: str, size: int) -> Upload:  # noqa: ARG002
        return _S3Upload(self, key)

    def copy(self, source: str, key: str, size: int, etag: str | None) -> Copied:
        bucket, _, path = source.split("://", 1)[1].partition("/")
        named: dict[str, Any] = {"CopySource": {"Bucket": bucket, "Key": path}}
        if etag:
            named["CopySourceIfMatch"] = etag
        if size <= COPIED_WHOLE:
            self.ask(key, "copy_object", **named)
            return self.stat(key)
        upload = _S3Upload(self, key)
        try:
            upload.copy(named, size)
        except BaseException:
            upload.abort()
            raise
        return self.stat(key)


class _S3Upload(Upload):
    def __init__(self, store: _S3, key: str) -> None:
        self._store, self._key = store, key
        found = store.ask(key, "create_multipart_upload")
        self._id = {"UploadId": found["UploadId"]}
        self._parts: list[dict[str, Any]] = []
        self._md5s: list[bytes] = []
        self._size = 0

    def send(self, block: bytes) -> None:
        md5 = hashlib.md5(block, usedforsecurity=False).digest()
        number = len(self._parts) + 1
        found = self._store.ask(
            self._key,
            "upload_part",
            **self._id,
            PartNumber=number,
            Body=block,
            ContentMD5=_coded(md5),
        )
        self._parts.append({"PartNumber": number, "ETag": found["ETag"]})
        self._md5s.append(md5)
        self._size += len(block)

    def copy(self, named: dict[str, Any], size: int) -> None:
        """Fill it with an object of the store, and put it there."""
        for start in range(0, size, COPIED_AT_ONCE):
            stop = min(size, start + COPIED_AT_ONCE)
            number = len(self._parts) + 1
            found = self._store.ask(
                self._key,
                "upload_part_copy",
                **self._id,
                **named,
                PartNumber=number,
                CopySourceRange=f"bytes={start}-{stop - 1}",
            )
            etag = found["CopyPartResult"]["ETag"]
            self._parts.append({"PartNumber": number, "ETag": etag})
        self._complete()

    def finish(self, last: bytes) -> Copied:
        self.send(last)
        whole = hashlib.md5(b"".join(self._md5s), usedforsecurity=False).hexdigest()
        etag = f"{whole}-{len(self._parts)}"
        try:
            found = self._complete()
        except ObjectNotFound:
            # An answer that was lost: the upload is no more, for the object is there.
            found = self._store.ask(self._key, "head_object")
            if _bare(found) != etag:
                raise
        self._store.sent(self._key, found, etag, self._size)
        return self._store.stat(self._key)

    def _complete(self) -> Any:
        parts = {"Parts": self._parts}
        return self._store.ask(
            self._key, "complete_multipart_upload", **self._id, MultipartUpload=parts
        )

    def abort(self) -> None:
        try:
            self._store.ask(self._key, "abort_multipart_upload", **self._id)
        except ObjectNotFound:
            return
        except StorageError as error:
            log.warning("an upload could not be given up: %s", error)


def _coded(md5: bytes) -> str:
    return base64.b64encode(md5).decode()


def _form(etag: str) -> str | None:
    """Give what is behind the digest of a tag; None where it has none."""
    found = re.fullmatch(r"[0-9a-f]{32}(-\d+)?", etag)
    return found and (found[1] or "")


def _bare(found: Any) -> str:
    return str(found.get("ETag", "")).strip('"')


def _md5_of(found: Any) -> str | None:
    """Give the MD5 that the tag of an object is; none of what is encrypted by keys."""
    plain = found.get("ServerSideEncryption", "AES256") == "AES256"
    return _bare(found) if plain and _MD5.fullmatch(_bare(found)) else None


# Google's storage.


class _GCS(TargetStore):
    def ask(self, key: str, method: str, path: str, *parts: str, **named: Any) -> Any:
        """Send one request about a key, again where that may help."""
        data = named.pop("data", None)
        own = {"json_out": True, **named}

        def once() -> Any:
            # aiohttp warns of large bytes, and closes a file when it has sent it.
            body = {} if data is None else {"data": io.BytesIO(data)}
            return self._files.call(method, path, *parts, **own, **body)

        return self._call(key, once)

    def is_empty(self) -> bool:
        return not any(self._pages("", maxResults="1"))

    def listed(self, folder: str) -> dict[str, Stored]:
        found: dict[str, Stored] = {}
        for item in self._pages(folder, delimiter="/"):
            name = item["name"].rpartition("/")[2]
            if name:
                state = _resource(item)
                tag = state.md5 or item.get("etag")
                found[name] = Stored(name, state.size, tag)
        return found

    def _pages(self, folder: str, **named: Any) -> Iterator[Any]:
        prefix = self._key(folder)
        asked = {"prefix": f"{prefix}/" if prefix else "", **named}
        while True:
            try:
                page = self.ask(folder, "GET", "b/{}/o", self._bucket, **asked)
            except ObjectNotFound as error:
                raise self._no_bucket(error) from error
            yield from page.get("items", ())
            if "maxResults" in named or not page.get("nextPageToken"):
                return
            asked["pageToken"] = page["nextPageToken"]

    def stat(self, key: str) -> Copied:
        own = self._bucket, self._key(key)
        return _resource(self.ask(key, "GET", "b/{}/o/{}", *own))

    def put(self, key: str, data: bytes) -> Copied:
        md5 = hashlib.md5(data, usedforsecurity=False)
        told = {"name": self._key(key), "md5Hash": _coded(md5.digest())}
        mark = secrets.token_hex(16)
        head = (
            f"--{mark}\r\nContent-Type: application/json; charset=UTF-8\r\n\r\n"
            f"{json.dumps(told)}\r\n--{mark}\r\n"
            "Content-Type: application/octet-stream\r\n\r\n"
        )
        body = b"".join([head.encode(), data, f"\r\n--{mark}--".encode()])
        found = self.ask(
            key,
            "POST",
            self._uploads(),
            uploadType="multipart",
            headers={"Content-Type": f"multipart/related; boundary={mark}"},
            data=body,
        )
        return self.sent(key, found, md5.hexdigest())

    def sent(self, key: str, found: Any, md5: str) -> Copied:
        """Hold what was sent against what the store says of it."""
        state = _resource(found)
        try:
            self._check_md5(key, md5, state.md5)
        except IntegrityError:
            self.remove(key)
            raise
        return state

    def begin(self, key: str, size: int) -> Upload:  # noqa: ARG002
        headers, _ = self.ask(
            key,
            "POST",
            f"{self._uploads()}?name={quote(self._key(key), safe='')}",
            uploadType="resumable",
            headers={"X-Upload-Content-Type": "application/octet-stream"},
            json={"name": self._key(key)},
            json_out=False,
        )
        return _GCSUpload(self, key, headers["Location"])

    def _uploads(self) -> str:
        host = self._files._location  # noqa: SLF001  (as its own uploads begin)
        return f"{host}/upload/storage/v1/b/{quote(self._bucket)}/o"

    def copy(self, source: str, key: str, size: int, etag: str | None) -> Copied:  # noqa: ARG002
        bucket, _, path = source.split("://", 1)[1].partition("/")
        parts = bucket, path, self._bucket, self._key(key)
        where = "b/{}/o/{}/rewriteTo/b/{}/o/{}"
        more: dict[str, str] = {}
        headers = {"Content-Type": "application/json"}
        while True:
            found = self.ask(key, "POST", where, *parts, headers=headers, **more)
            if found.get("done"):
                return _resource(found["resource"])
            more = {"rewriteToken": found["rewriteToken"]}


class _GCSUpload(Upload):
    """A resumable upload; see "Resumable uploads" of Google's documentation."""

    def __init__(self, store: _GCS, key: str, location: str) -> None:
        self._store, self._key, self._location = store, key, location
        self._at = 0
        self._md5 = hashlib.md5(usedforsecurity=False)

    def send(self, block: bytes) -> None:
        self._send(block, "*")

    def finish(self, last: bytes) -> Copied:
        total = str(self._at + len(last))
        found = self._send(last, total)
        return self._store.sent(self._key, found, self._md5.hexdigest())

    def _send(self, block: bytes, total: str) -> Any:
        """Send a block; give what the store says of the object when it was the last.

        What comes twice, for an answer was lost, the store passes over.
        """
        begin, end = self._at, self._at + len(block)
        self._md5.update(block)
        while self._at < end:
            found, content = self._store.ask(
                self._key,
                "PUT",
                self._location,
                headers={"Content-Range": f"bytes {self._at}-{end - 1}/{total}"},
                data=block[self._at - begin :],
                json_out=False,
            )
            if content and total != "*":
                # The answer to the last bytes; before them it says what came.
                return json.loads(content)
            came = re.fullmatch(r"bytes=0-(\d+)", found.get("Range", ""))
            if came is None or not self._at <= int(came[1]) < end:
                url = self._store.url(self._key)
                msg = f"{url}: the store lost bytes that it was sent"
                raise StorageError(msg, url=url, transient=False)
            self._at = int(came[1]) + 1
        return None

    def abort(self) -> None:
        try:
            self._store.ask(self._key, "DELETE", self._location, json_out=False)
        except ObjectNotFound:
            return
        except StorageError as error:
            log.warning("an upload could not be given up: %s", error)


def _resource(found: Any) -> Copied:
    md5 = found.get("md5Hash")
    return Copied(int(found["size"]), base64.b64decode(md5).hex() if md5 else None)


# Others.


class _Others(TargetStore):
    """What is known by fsspec's own calls alone: written beside, and moved."""

    def __init__(self, mirror: Mirror) -> None:
        super().__init__(mirror)
        strip = self._files._strip_protocol  # noqa: SLF001  (documented for this)
        self._root = str(strip(mirror.root)).rstrip("/")
        self._made: set[str] = set()

    def _path(self, key: str) -> str:
        return f"{self._root}/{key}" if key else self._root

    def listed(self, folder: str) -> dict[str, Stored]:
        path = self._path(folder)
        try:
            found = self._call(folder, lambda: self._files.ls(path, detail=True))
        except ObjectNotFound:
            return {}
        listed: dict[str, Stored] = {}
        for info in found:
            name = info["name"].rstrip("/").rpartition("/")[2]
            if info["type"] != "file":
                continue
            if info["name"].strip("/") == path.strip("/"):
                msg = f"{self.url(folder)} is an object where the copy needs a folder"
                raise PlanError(msg, path=self.url(folder))
            listed[name] = Stored(name, int(info["size"]))
        return listed

    def is_empty(self) -> bool:
        path = self._path("")
        try:
            return not self._call("", lambda: self._files.ls(path, detail=True))
        except ObjectNotFound:
            return True

    def stat(self, key: str) -> Copied:
        found = self._call(key, lambda: self._files.info(self._path(key)))
        return Copied(int(found["size"]))

    def put(self, key: str, data: bytes) -> Copied:
        upload = _Beside(self, key)
        try:
            return upload.finish(data)
        except BaseException:
            upload.abort()
            raise

    def begin(self, key: str, size: int) -> Upload:  # noqa: ARG002
        return _Beside(self, key)

    def opened(self, key: str) -> Any:
        """Open a file for writing, and make its folder."""
        folder = self._path(key).rpartition("/")[0]
        if folder not in self._made:
            self._call(key, lambda: self._files.makedirs(folder, exist_ok=True))
            self._made.add(folder)
        path = self._path(key)
        return self._call(key, lambda: self._files.open(path, "wb"))

    def call(self, key: str, function: Callable[[], Result]) -> Result:
        """Call what cannot be called twice."""
        with _translated(self.url(key)):
            return function()

    def move(self, part: str, key: str) -> None:
        """Give a file its place; what had it is replaced."""
        from fsspec import AbstractFileSystem

        source, path, files = self._path(part), self._path(key), self._files
        if type(files).mv is AbstractFileSystem.mv:
            # Which copies as well, after it has looked at everything that is there.
            self.call(key, lambda: files.cp_file(source, path))
            self.remove(part)
        else:
            self.call(key, lambda: files.mv(source, path))


class _Beside(Upload):
    """A file beside its place."""

    def __init__(self, store: _Others, key: str) -> None:
        self._store, self._key = store, key
        folder = key.rpartition("/")[0]
        name = part_name()
        self._part = f"{folder}/{name}" if folder else name
        self._lock = threading.Lock()
        self._file: Any = None
        self._over = False

    def send(self, block: bytes) -> None:
        with self._lock:
            if self._file is None and not self._over:
                self._file = self._store.opened(self._part)
        # One that was given up meanwhile is closed, or was never opened.
        self._store.call(self._key, lambda: self._file.write(block))

    def finish(self, last: bytes) -> Copied:
        self.send(last)
        self._store.call(self._key, self._file.close)
        self._store.move(self._part, self._key)
        return self._store.stat(self._key)

    def abort(self) -> None:
        try:
            with self._lock:
                self._over = True
                if self._file is not None:
                    self._store.call(self._key, self._file.close)
            self._store.remove(self._part)
        except StorageError as error:
            log.warning("a part could not be removed: %s", error)


def open_target(mirror: Mirror) -> TargetStore:
    """Open a place that objects are put to; one for each process."""
    return _open(os.getpid(), mirror)


@functools.lru_cache(maxsize=16)
def _open(_pid: int, mirror: Mirror) -> TargetStore:
    return {"s3": _S3, "gs": _GCS}.get(mirror.scheme, _Others)(mirror)


def check_copied(url: str, found: Copied, size: int) -> None:
    """Hold the size that a store tells of an object against the one it should have.

    Raises
    ------
    WrongSize
        They differ.
    """
    if found.size != size:
        msg = f"{url}: the store holds {found.size} bytes of it, sent were {size}"
        raise WrongSize(msg, url=url, got=found.size, expected=size)
