"""One comparison of a folder with a plan: names, sizes, and the bytes where asked."""

from __future__ import annotations

import os
import re
import stat
import zlib
from array import array
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from intake_idc.arrow import numbers, numpy_of, one
from intake_idc.errors import RequestError
from intake_idc.plan import ACTIONS
from intake_idc.plan.names import same
from intake_idc.storage import each
from intake_idc.transfer.evidence import (
    MULTIPART,
    Known,
    judge,
    measure,
    stated_by_store,
)
from intake_idc.transfer.hashing import md5_of_etag
from intake_idc.transfer.notices import NOTICES
from intake_idc.transfer.places import FOLDER_OF_RECORDS
from intake_idc.transfer.recorded import Records, path_keys, some
from intake_idc.transfer.verification import (
    DIFFER,
    MATCH,
    MISSING,
    UNREADABLE,
    UNVERIFIABLE,
    Verification,
)

if TYPE_CHECKING:
    import numpy as np
    import pyarrow as pa

    from intake_idc.plan import Plan
    from intake_idc.storage import Mirror

__all__ = ["Check", "Level", "Truth"]

BATCH_BYTES = 4 << 20
"""Bytes of files that one thread reads one after the other, at least."""
BATCH_FILES = 32
_UNLISTED = ACTIONS.index("unlisted")


class Level(NamedTuple):
    """How much is looked at."""

    quick: bool = False
    """Names, counts and sizes alone."""
    checksum: bool = False
    """Every file is read, also where it is as it was left."""
    share: tuple[int, int] | None = None
    """Which share of the files is read: the first of so many, and so on."""

    @classmethod
    def of(cls, *, quick: bool, checksum: bool, subset: str | None) -> Level:
        """Give the level that a user asks for.

        Raises
        ------
        RequestError
            ``subset`` is no ``"n/t"``, or nothing is read of which it could be one.
        """
        if quick and (checksum or subset is not None):
            msg = "quick reads no file; leave it out with checksum or subset"
            raise RequestError(msg)
        if subset is None:
            return cls(quick, checksum)
        found = re.fullmatch(r"(\d{1,9})/(\d{1,9})", str(subset))
        share = (int(found[1]), int(found[2])) if found is not None else (0, 0)
        if not 1 <= share[0] <= share[1]:
            msg = f"subset is 'n/t', such as '1/20' to '20/20'; got {subset!r}"
            raise RequestError(msg, subset=subset)
        return cls(checksum=True, share=share)

    def reads(self, name: str) -> bool:
        """Whether an object belongs to the share that is read."""
        if self.share is None:
            return True
        number, of = self.share
        return zlib.crc32(name.encode()) % of == number - 1


class Truth(NamedTuple):
    """What is known of the objects of a plan, beside what it holds itself."""

    records: Records | None = None
    """What was written down of the folder, one row for each path."""
    uids: Mapping[str, str] = {}
    """SOPInstanceUID by key, where it is known."""
    series_hashes: Mapping[str, str] = {}
    """IDC's hash of series, by their uuid, where it is stated."""


class _Row(NamedTuple):
    """What is to be in one place, and what is known of it."""

    row: int
    action: int
    series: int
    name: str
    file: str | None
    size: int
    etag: str | None
    md5: bytes | None
    mtime: int
    hash: str | None
    told: str | None
    own: str | None


class _File(NamedTuple):
    """What lies in a place."""

    plain: bool
    size: int
    mtime: int


_Measured = tuple[_Row, Known, dict[str, str] | OSError]


class Check:
    """One comparison.

    Parameters
    ----------
    plan : Plan
        What is to be there.
    level : Level
        How much is looked at.
    truth : Truth
        What else is known.
    """

    def __init__(self, plan: Plan, level: Level, truth: Truth) -> None:
        self.plan, self.level, self.truth = plan, level, truth
        self.root = str(plan.target)
        self.verdicts = bytearray([MATCH]) * len(plan)
        self.remarks = array("i", bytes(4 * len(plan)))
        self._numbers: dict[tuple[str, str], int] = {("", ""): 0}
        self.others: list[str] = []
        self._links: dict[str, bool] = {}
        self._closed: dict[str, str] = {}
        self.read = 0
        self._suspects: list[int] = []
        self._tagged = _is_public(plan.mirror)
        self._md5s: dict[int, bytes] = {}
        self._folders = list(plan.series.column("folder").to_pylist())
        names = plan.series.column_names
        uid = "SeriesInstanceUID"
        self._uids = plan.series.column(uid).to_pylist() if uid in names else []
        self._uuids = list(plan.series.column("crdc_series_uuid").to_pylist())
        own = self._uuids if truth.series_hashes else ()
        self._hashed = {n for n, uuid in enumerate(own) if uuid in truth.series_hashes}

    def say(self, row: int, verdict: int, what: str = "", reason: str = "") -> None:
        """Note what was found of a row."""
        self.verdicts[row] = verdict
        remark = what, reason
        self.remarks[row] = self._numbers.setdefault(remark, len(self._numbers))

    def run(self) -> None:
        """Look at every object."""
        workers = 2 * (os.cpu_count() or 1)
        for answers in each(self._measured, self._batches(), ahead=workers):
            for answer in answers:
                self.read += 1
                self._take(*answer)
        # A tag that is no MD5 looks like one where a store encrypts: it is believed
        # where others of its mirror were right.
        reason = "its MD5 is not the entity tag that the store gives"
        for row in self._suspects if self._tagged else ():
            self.say(row, DIFFER, "hash", reason)
        if self._hashed:
            self._whole_series()

    # Names and sizes.

    def _batches(self) -> Iterator[list[tuple[_Row, str]]]:
        """Give files to read, some at once."""
        batch: list[tuple[_Row, str]] = []
        size = 0
        for row, path in self._looked_at():
            batch.append((row, path))
            size += row.size
            if size >= BATCH_BYTES or len(batch) >= BATCH_FILES:
                yield batch
                batch, size = [], 0
        if batch:
            yield batch

    def _looked_at(self) -> Iterator[tuple[_Row, str]]:
        """Compare names and sizes folder by folder; give the files that are read."""
        here: dict[str, _File] = {}
        folder: str | None = None
        listed = True
        for row in self._rows():
            own = self._folders[row.series]
            if own != folder:
                if folder is not None and listed:
                    self.left(folder, here)
                folder, listed = own, True
                here = self.scan(own)
            if row.action == _UNLISTED:
                # Its files are not known, and none of them is too many.
                listed = False
                self.say(row.row, MISSING, "", self.plan.reasons.get(row.row, ""))
                continue
            file = row.file or f"{row.name}.dcm"
            found = here.pop(file, None) or self._alike(here, file)
            if self._compared(row, found):
                yield row, f"{self.root}/{own}/{file}" if own else f"{self.root}/{file}"
        if folder is not None and listed:
            self.left(folder, here)

    def _alike(self, here: dict[str, _File], file: str) -> _File | None:
        """Find a file by a name that its file system gives in another spelling."""
        if file.isascii() or not here:
            return None
        wanted = same(file)
        for name in here:
            if same(name) == wanted:
                return here.pop(name)
        return None

    def _compared(self, row: _Row, found: _File | None) -> bool:
        """Compare name and size; say whether the file is to be read."""
        folder = self._folders[row.series]
        if found is None and folder in self._closed:
            self.say(row.row, DIFFER, UNREADABLE, self._closed[folder])
        elif found is None:
            self.say(row.row, MISSING)
        elif not found.plain:
            self.say(row.row, DIFFER, "link", "it is a link, or no plain file")
        elif found.size != row.size:
            reason = f"it has {found.size} bytes, not {row.size}"
            self.say(row.row, DIFFER, "size", reason)
        elif self.level.quick:
            return False
        elif self.level.checksum:
            return self.level.reads(row.name)
        else:
            as_left = row.mtime > 0 and found.mtime == row.mtime
            return not (as_left and _same_version(row.told, row.etag))
        return False

    def _rows(self) -> Iterator[_Row]:
        """Give the rows of each folder together."""
        import numpy as np

        known: dict[str, int] = {}
        numbered = [known.setdefault(name, len(known)) for name in self._folders]
        series = self.plan.column("series")
        of = np.array(numbered, np.int64)[series] if len(series) else series
        order = np.argsort(of, kind="stable")
        table = self._with_records()
        in_order = bool((order[1:] > order[:-1]).all())
        if not in_order:
            # To take some rows of many chunks takes as long as to take them all.
            table = table.combine_chunks()
        for start in range(0, len(order), 4096):
            rows = order[start : start + 4096]
            part = table.slice(start, 4096) if in_order else table.take(numbers(rows))
            columns = (part.column(name).to_pylist() for name in table.column_names)
            yield from map(_Row._make, zip(rows.tolist(), *columns, strict=True))

    def _with_records(self) -> pa.Table:
        """Give the objects of the plan, and what was written down of their files."""
        import numpy as np
        import pyarrow as pa

        names = "action", "series", "name", "file", "size", "etag", "md5"
        table = self.plan.objects.select(names)
        count = len(self.plan)
        records = self.truth.records
        if records is None or not len(records) or not count:
            nothing = pa.nulls(count, pa.string())
            columns = [numbers(np.zeros(count, np.int64)), nothing, nothing, nothing]
        else:
            keys = path_keys(self._folders, self.plan.objects)
            order = np.argsort(records.keys)
            sorted_keys = records.keys[order]
            at = np.searchsorted(sorted_keys, keys).clip(max=len(order) - 1)
            there = sorted_keys[at] == keys
            rows = order[at]
            there &= self._same_objects(records, rows)
            mtime = np.where(there, records.column("mtime_ns")[rows], 0)
            taken = some(rows, there)
            columns = [
                numbers(mtime),
                one(records.objects.column("hash")).take(taken),
                one(records.objects.column("etag")).take(taken),
                records.tags_of(self.plan.mirror).take(taken),
            ]
        told = "mtime", "hash", "told", "own"
        for name, column in zip(told, columns, strict=True):
            table = table.append_column(name, column)
        return table

    def _same_objects(
        self, records: Records, rows: np.ndarray[Any, Any]
    ) -> np.ndarray[Any, Any]:
        """Say of which rows the record is of the same object."""
        import pyarrow.compute as pc

        told = one(records.objects.column("name")).take(numbers(rows))
        alike = pc.equal(told, one(self.plan.objects.column("name")))
        return numpy_of(one(pc.cast(alike, "uint8"))) > 0

    # The folder.

    def scan(self, folder: str) -> dict[str, _File]:
        """Give what lies in a folder; nothing where it is behind a link."""
        if not self._inside(folder):
            return {}
        found = {}
        path = f"{self.root}/{folder}" if folder else self.root
        try:
            with os.scandir(path) as entries:
                for entry in entries:
                    state = entry.stat(follow_symlinks=False)
                    if not stat.S_ISDIR(state.st_mode):
                        plain = stat.S_ISREG(state.st_mode)
                        found[entry.name] = _File(
                            plain, state.st_size, state.st_mtime_ns
                        )
        except (FileNotFoundError, NotADirectoryError):
            return found
        except OSError as error:
            self._closed[folder] = f"its folder cannot be read: {error.strerror}"
        return found

    def _inside(self, folder: str) -> bool:
        """Whether no part of a folder's path is a link."""
        if not folder:
            return True
        if folder not in self._links:
            own = Path(f"{self.root}/{folder}")
            inside = self._inside(folder.rpartition("/")[0]) and not own.is_symlink()
            self._links[folder] = inside
        return self._links[folder]

    def left(self, folder: str, here: Mapping[str, _File]) -> None:
        """Note files of a folder that are none of its objects."""
        for name in sorted(here):
            if folder or not NOTICES.fullmatch(name):
                self.others.append(f"{folder}/{name}" if folder else name)

    def walk(self) -> None:
        """Note every file in folders that hold no object."""
        seen = set(self._folders)
        for base, folders, files in os.walk(self.root):
            where = Path(base).relative_to(self.root).as_posix()
            where = "" if where == "." else where
            if not where and FOLDER_OF_RECORDS in folders:
                folders.remove(FOLDER_OF_RECORDS)
            links = [name for name in folders if Path(base, name).is_symlink()]
            for name in links if where in seen else [*files, *links]:
                if where or not NOTICES.fullmatch(name):
                    self.others.append(f"{where}/{name}" if where else name)

    # Bytes.

    def _measured(self, batch: list[tuple[_Row, str]]) -> list[_Measured]:
        return [self._measure(row, path) for row, path in batch]

    def _measure(self, row: _Row, path: str) -> _Measured:
        known = self._known(row)
        mirror = self.plan.mirror
        if mirror.engine == "fsspec" and known.md5 is None:
            root = mirror.bucket_root(self.plan.bucket(row.series))
            url = f"{root}/{self._uuids[row.series]}/{row.name}.dcm"
            known = known._replace(stated=stated_by_store(mirror, url))
        return row, known, self._found(path, known)

    def _found(self, path: str, known: Known) -> dict[str, str] | OSError:
        try:
            return measure(path, known)
        except OSError as error:
            return error

    def _known(self, row: _Row) -> Known:
        etag = row.etag if row.etag is not None else row.own
        tagged = self.plan.mirror.scheme in ("s3", "gs")
        return Known(
            row.size,
            row.md5.hex() if row.md5 is not None else None,
            etag if tagged else None,
            row.hash or None,
            self._uids[row.series] if self._uids else None,
            self.truth.uids.get(f"{self._uuids[row.series]}/{row.name}"),
            row.series in self._hashed,
        )

    def _take(self, row: _Row, known: Known, found: dict[str, str] | OSError) -> None:
        if isinstance(found, FileNotFoundError):
            self.say(row.row, MISSING, "", "it went while it was looked at")
            return
        if isinstance(found, OSError):
            reason = f"it cannot be read: {found.strerror or found}"
            self.say(row.row, DIFFER, UNREADABLE, reason)
            return
        if row.series in self._hashed and "md5" in found:
            self._md5s[row.row] = bytes.fromhex(found["md5"])
        judged = judge(found, known)
        self._tagged = self._tagged or judged.tag is True
        verdict = {True: MATCH, False: DIFFER, None: UNVERIFIABLE}[judged.good]
        if judged.tag is False and judged.good is not False:
            self._suspects.append(row.row)
        self.say(row.row, verdict, judged.what, judged.reason)

    def _whole_series(self) -> None:
        """Compare the hash of each series of which every object was read."""
        from hashlib import md5

        import numpy as np

        series = self.plan.column("series")
        for number in sorted(self._hashed):
            rows = np.flatnonzero(series == number).tolist()
            if any(row not in self._md5s for row in rows):
                continue
            joined = "".join(sorted(self._md5s[row].hex() for row in rows))
            own = md5(joined.encode(), usedforsecurity=False).hexdigest()
            stated = self.truth.series_hashes[self._uuids[number]]
            for row in rows:
                if self.verdicts[row] != UNVERIFIABLE:
                    continue
                if own == stated:
                    self.say(row, MATCH)
                else:
                    reason = f"the hash of its series is {own}, stated is {stated}"
                    self.say(row, DIFFER, "hash", reason)

    def extend(self, count: int) -> None:
        """Take more rows, of which `say` tells."""
        self.verdicts += bytes(count)
        self.remarks.extend([0] * count)

    def result(self) -> Verification:
        """Give what was found."""
        return Verification(
            Path(self.root),
            self.plan,
            bytes(self.verdicts),
            self.remarks,
            tuple(self._numbers),
            tuple(self.others),
            self.read,
        )


def _is_public(mirror: Mirror) -> bool:
    """Whether the entity tags of a mirror are known to be what S3 and GCS document."""
    return all(
        own.name in ("aws", "gcs") and own.endpoint_url is None for own in mirror.every
    )


def _same_version(told: str | None, etag: str | None) -> bool:
    """Whether the tag of what was copied may be that of what is listed.

    Tags of two mirrors cannot be compared, unless both are of S3's kind.
    """
    if told is None or etag is None:
        return True
    own, other = (tag.removeprefix("W/").strip('"') for tag in (told, etag))
    return own == other or (_of_bytes(own) and not _of_bytes(other))


def _of_bytes(etag: str) -> bool:
    """Whether a tag speaks of the bytes, and not of a file that holds them."""
    return md5_of_etag(etag) is not None or MULTIPART.fullmatch(etag) is not None
