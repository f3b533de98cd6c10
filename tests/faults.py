"""An object store with faults: enough of S3 over a folder, and a script of what fails.

A program of its own, on asyncio and the standard library alone::

    python tests/faults.py --root FOLDER --port 0 --latency 0.03 --bandwidth 60e6

serves ``FOLDER/<bucket>/<key>`` on loopback and prints its port. It answers GET and
HEAD of objects, with ranges, entity tags and If-Match, and ListObjectsV2. `latency` is
the seconds before the first byte of each answer, `bandwidth` the bytes a second of each
connection. `tags` says what the entity tags are: the `state` of the file, its `md5`, or
`none`.

What fails is a script: a list of rules, sent as JSON to ``POST /-/script``, which also
forgets the requests so far. ``GET /-/requests`` gives those, and ``GET /-/busiest`` how
many were in flight at once. A rule is a dict:

========= ==========================================================================
on        ``bucket/key`` of an object, ``list:prefix`` of a listing, ``*`` for all
do        what happens; see below
skip      requests that are answered well before (0)
times     requests that fail (1); null is for ever
seconds   after the script came in, until which all fail, instead of ``times``
share     of requests that fail, by chance, instead of ``times``
========= ==========================================================================

========= ==========================================================================
do        the answer
========= ==========================================================================
status    ``status`` and an error in XML with ``code``; ``headers`` besides
reset     RST, before the answer or ``after`` so many bytes of the body
close     the length of the whole, and the end ``after`` so many bytes, or ``at`` a
          byte of the object, whatever range is asked for
short     the body cut ``by`` so many bytes, with a length that agrees
long      the body and ``by`` so many bytes more, with a length that agrees
stall     nothing more, ``after`` so many bytes or before the answer
trickle   all, at ``rate`` bytes a second
html      200 with a page, of ``length`` bytes where that is given
half      of a listing, half of its page, as if that were all
say       of a listing, ``new`` wherever it has ``old``
nothing   all is well
replace   another object with another entity tag
retag     the same object with another entity tag
flip      one bit of the body is another
whole     the range is not heeded: 200 and the whole object
redirect  ``status`` (307) to ``to``
========= ==========================================================================
"""

from __future__ import annotations

import argparse
import asyncio
import hashlib
import json
import os
import random
import re
import socket
import struct
import time
from contextlib import suppress
from pathlib import Path
from urllib.parse import parse_qs, unquote, urlsplit
from xml.sax.saxutils import escape

PAGE = 1000
PIECE = 256 * 1024
_INVERTED = bytes(255 - i for i in range(256))
_RANGE = re.compile(r"bytes=(\d*)-(\d*)")


class Store:
    """A folder of buckets, a script, and a log."""

    def __init__(
        self,
        root: Path,
        latency: float = 0.0,
        bandwidth: float = 0.0,
        tags: str = "state",
    ) -> None:
        self.tags = tags
        self.root, self.latency, self.bandwidth = root, latency, bandwidth
        self.rules: list[dict] = []
        self.log: list[dict] = []
        self.chance = random.Random(0)  # noqa: S311  (a script is played twice alike)
        self.began = time.monotonic()
        self.running = self.busiest = 0

    def script(self, rules: list[dict]) -> None:
        self.chance.seed(0)
        self.rules = [{"skip": 0, "times": 1, **rule, "met": 0} for rule in rules]
        self.log = []
        self.began = time.monotonic()
        self.busiest = self.running

    def fault(self, target: str) -> dict | None:
        """Give the first rule that holds for this request, and count it."""
        found = None
        for rule in self.rules:
            if rule["on"] not in (target, "*"):
                continue
            rule["met"] += 1
            if "seconds" in rule:
                holds = time.monotonic() - self.began < rule["seconds"]
            elif "share" in rule:
                holds = self.chance.random() < rule["share"]
            else:
                past = rule["met"] - rule["skip"]
                holds = past > 0 and (rule["times"] is None or past <= rule["times"])
            if holds and found is None:
                found = rule
        return found

    def state(self, path: Path) -> tuple[int, str]:
        """Give size and entity tag of a file."""
        size, etag = state_of(path)
        if self.tags == "md5":
            digest = hashlib.md5(path.read_bytes(), usedforsecurity=False).hexdigest()
            etag = f'"{digest}"'
        return size, "" if self.tags == "none" else etag

    def listing(self, bucket: str, query: dict[str, str], *, half: bool) -> bytes:
        """Answer ListObjectsV2."""
        prefix = query.get("prefix", "")
        base = self.root / bucket
        folder = base / prefix.rpartition("/")[0]
        names: list[str] = []
        for here, _, files in os.walk(folder):
            inner = Path(here).relative_to(base).as_posix()
            names += [f"{inner}/{name}" if inner != "." else name for name in files]
        found = sorted(name for name in names if name.startswith(prefix))
        folders: dict[str, None] = {}
        delimiter = query.get("delimiter")
        if delimiter:
            kept = []
            for name in found:
                cut = name.find(delimiter, len(prefix))
                if cut < 0:
                    kept.append(name)
                else:
                    folders[name[: cut + 1]] = None
            found = kept
        after = query.get("continuation-token") or query.get("start-after", "")
        found = [name for name in found if name > after]
        most = int(query.get("max-keys", PAGE))
        page, rest = found[:most], found[most:]
        if half:
            page, rest = page[: len(page) // 2], []
        rows = []
        for name in page:
            size, etag = self.state(base / name)
            tag = f"<ETag>{escape(etag)}</ETag>" if etag else ""
            rows.append(
                f"<Contents><Key>{escape(name)}</Key><Size>{size}</Size>"
                f"{tag}<StorageClass>STANDARD</StorageClass>"
                "<LastModified>2024-01-01T00:00:00.000Z</LastModified></Contents>"
            )
        rows += [
            f"<CommonPrefixes><Prefix>{escape(name)}</Prefix></CommonPrefixes>"
            for name in folders
        ]
        token = (
            f"<NextContinuationToken>{escape(page[-1])}</NextContinuationToken>"
            if rest
            else ""
        )
        return (
            '<?xml version="1.0" encoding="UTF-8"?>'
            '<ListBucketResult xmlns="http://s3.amazonaws.com/doc/2006-03-01/">'
            f"<Name>{escape(bucket)}</Name><Prefix>{escape(prefix)}</Prefix>"
            f"<KeyCount>{len(page)}</KeyCount><MaxKeys>{most}</MaxKeys>"
            f"<IsTruncated>{str(bool(rest)).lower()}</IsTruncated>{token}"
            f"{''.join(rows)}</ListBucketResult>"
        ).encode()


def state_of(path: Path) -> tuple[int, str]:
    found = path.stat()
    return found.st_size, f'"{found.st_mtime_ns:x}-{found.st_size:x}"'


def _limits(asked: str, size: int) -> tuple[int, int]:
    """Give the bytes of a range: all of them where there is none."""
    found = _RANGE.fullmatch(asked)
    if found is None:
        return 0, size
    first, last = found.groups()
    if not first:
        return max(0, size - int(last)), size
    return int(first), min(size, int(last) + 1) if last else size


def _spoiled(data: bytes, rule: dict) -> bytes:
    """Give the body that a rule makes of one."""
    do, by = rule["do"], rule.get("by", 1)
    if do == "replace":
        return data.translate(_INVERTED)
    if do == "flip":
        return data[:-1] + bytes([data[-1] ^ 1])
    if do == "short":
        return data[:-by]
    return data + bytes(by) if do == "long" else data


def _error(code: str) -> bytes:
    return (
        '<?xml version="1.0" encoding="UTF-8"?>'
        f"<Error><Code>{code}</Code><Message>{code}</Message></Error>"
    ).encode()


_CODES = {
    301: "PermanentRedirect",
    307: "TemporaryRedirect",
    403: "AccessDenied",
    404: "NoSuchKey",
    412: "PreconditionFailed",
    416: "InvalidRange",
    429: "SlowDown",
    500: "InternalError",
    503: "SlowDown",
}


class Connection:
    """One connection: requests one after the other."""

    def __init__(
        self, store: Store, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        self.store, self.reader, self.writer = store, reader, writer
        self.entry: dict = {}

    async def run(self) -> None:
        with suppress(ConnectionError, asyncio.IncompleteReadError):
            while await self._one():
                pass
        self.writer.close()

    async def _one(self) -> bool:
        """Answer one request; whether there may be another."""
        head = (await self.reader.readuntil(b"\r\n\r\n")).decode("latin-1")
        line, *lines = head.split("\r\n")
        method, target, _ = line.split(" ", 2)
        headers = {
            name.strip().lower(): value.strip()
            for name, _, value in (each.partition(":") for each in lines)
        }
        body = await self.reader.readexactly(int(headers.get("content-length", 0)))
        if target.startswith("/-/"):
            await self._control(target, body)
            return True
        self.store.running += 1
        self.store.busiest = max(self.store.busiest, self.store.running)
        try:
            return await self._answer(method, target, headers)
        finally:
            self.store.running -= 1

    async def _control(self, target: str, body: bytes) -> None:
        answer: object = "ready"
        if target == "/-/script":
            self.store.script(json.loads(body))
        elif target == "/-/requests":
            answer = self.store.log
        elif target == "/-/busiest":
            answer = self.store.busiest
        await self._send(200, json.dumps(answer).encode(), {})

    async def _answer(self, method: str, target: str, headers: dict) -> bool:
        split = urlsplit(target)
        bucket, _, key = unquote(split.path).lstrip("/").partition("/")
        query = {name: value[0] for name, value in parse_qs(split.query).items()}
        is_list = not key
        where = f"list:{query.get('prefix', '')}" if is_list else f"{bucket}/{key}"
        rule = self.store.fault(where) or {"do": "nothing"}
        self.entry = {
            "method": method,
            "target": where,
            "range": headers.get("range", ""),
            "match": headers.get("if-match", ""),
            "status": 0,
            "at": time.monotonic() - self.store.began,
        }
        self.store.log.append(self.entry)
        if self.store.latency:
            await asyncio.sleep(self.store.latency)
        do = rule["do"]
        if do in ("reset", "stall") and rule.get("after") is None:
            return await self._break(do)
        if do == "status":
            status = rule["status"]
            code = rule.get("code", _CODES.get(status, "Unknown"))
            await self._send(status, _error(code), rule.get("headers", {}), method)
            return True
        if do == "redirect":
            status = rule.get("status", 307)
            await self._send(
                status, _error(_CODES[status]), {"Location": rule["to"]}, method
            )
            return True
        if do == "html":
            page = b"<!doctype html><html><body>Sign in to this network</body></html>"
            page = page.ljust(rule.get("length", 0), b" ")
            await self._send(200, page, {"Content-Type": "text/html"}, method)
            return True
        if is_list:
            data = self.store.listing(bucket, query, half=do == "half")
            if do == "say":
                data = data.replace(rule["old"].encode(), rule["new"].encode())
            return await self._body(
                200, data, {"Content-Type": "application/xml"}, method, rule
            )
        return await self._object(bucket, key, headers, method, rule)

    async def _object(
        self, bucket: str, key: str, headers: dict, method: str, rule: dict
    ) -> bool:
        path = self.store.root / bucket / key
        if ".." in Path(key).parts or not path.is_file():
            await self._send(404, _error("NoSuchKey"), {}, method)
            return True
        size, etag = self.store.state(path)
        do = rule["do"]
        if do in ("replace", "retag"):
            etag = '"another"'
        match = headers.get("if-match")
        if match and match.strip('"') != etag.strip('"'):
            await self._send(412, _error("PreconditionFailed"), {}, method)
            return True
        asked = headers.get("range", "") if do != "whole" else ""
        start, stop = _limits(asked, size)
        if asked and start >= size:
            await self._send(416, _error("InvalidRange"), {}, method)
            return True
        status = 206 if asked else 200
        with path.open("rb") as file:
            file.seek(start)
            data = file.read(stop - start) if method != "HEAD" else b""
        data = _spoiled(data, rule)
        answer = {
            "Content-Type": "application/dicom",
            "ETag": etag,
            "Accept-Ranges": "bytes",
            "Last-Modified": "Mon, 01 Jan 2024 00:00:00 GMT",
        }
        if not etag:
            del answer["ETag"]
        if status == 206:
            answer["Content-Range"] = f"bytes {start}-{stop - 1}/{size}"
        if method == "HEAD":
            answer["Content-Length"] = str(stop - start)
        return await self._body(status, data, answer, method, rule, start)

    async def _body(
        self,
        status: int,
        data: bytes,
        headers: dict,
        method: str,
        rule: dict,
        start: int = 0,
    ) -> bool:
        do, after = rule["do"], rule.get("after")
        if "at" in rule:
            after = max(0, rule["at"] - start)
        if do in ("close", "reset", "stall") and after is not None:
            headers = {"Content-Length": str(len(data)), **headers}
            await self._send(status, data[:after], headers, method)
            return await self._break(do)
        if do == "trickle":
            headers = {"Content-Length": str(len(data)), **headers}
            await self._send(status, b"", headers, method)
            for at in range(0, len(data), rule["rate"] // 20):
                self.writer.write(data[at : at + rule["rate"] // 20])
                await self.writer.drain()
                await asyncio.sleep(1 / 20)
            return True
        await self._send(status, data, headers, method)
        return True

    async def _break(self, do: str) -> bool:
        """End the connection, in the way that is asked for."""
        if do == "stall":
            # Until the client has had enough.
            while await self.reader.read(PIECE):
                pass
            return False
        if do == "reset":
            found = self.writer.get_extra_info("socket")
            found.setsockopt(
                socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0)
            )
            # What was sent before is to be met before the end.
            await asyncio.sleep(0.02)
            self.writer.transport.abort()
        return False

    async def _send(
        self, status: int, data: bytes, headers: dict, method: str = "GET"
    ) -> None:
        headers = {"Content-Length": str(len(data)), **headers}
        if self.entry:
            self.entry["status"] = status
            self.entry["sent"] = len(data)
        lines = [f"HTTP/1.1 {status} Status"]
        lines += [f"{name}: {value}" for name, value in headers.items()]
        head = ("\r\n".join(lines) + "\r\n\r\n").encode()
        body = b"" if method == "HEAD" else data
        if len(body) <= PIECE:
            self.writer.write(head + body)
        else:
            self.writer.write(head)
            for at in range(0, len(body), PIECE):
                self.writer.write(body[at : at + PIECE])
                await self.writer.drain()
                if self.store.bandwidth:
                    await asyncio.sleep(PIECE / self.store.bandwidth)
        await self.writer.drain()


async def serve(store: Store, port: int) -> None:

    async def connected(
        reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        await Connection(store, reader, writer).run()

    server = await asyncio.start_server(connected, "127.0.0.1", port, backlog=512)
    print(server.sockets[0].getsockname()[1], flush=True)  # noqa: T201
    async with server:
        await server.serve_forever()


def main() -> None:
    parser = argparse.ArgumentParser(description="An object store with faults.")
    parser.add_argument("--root", type=Path, required=True)
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--latency", type=float, default=0.0)
    parser.add_argument("--bandwidth", type=float, default=0.0)
    parser.add_argument("--tags", default="state")
    given = parser.parse_args()
    with suppress(KeyboardInterrupt):
        store = Store(given.root, given.latency, given.bandwidth, given.tags)
        asyncio.run(serve(store, given.port))


if __name__ == "__main__":
    main()
