"""Objects that mean harm, and a program that reads them within bounds.

    python tests/hostile.py FOLDER

reads every object of a folder in every way there is, each in a process of its own
that may take 2 GiB more than it begins with, and some seconds of computing; then all of
them together by bags and tables, and many bombs side by side. It prints what came of it
as JSON. `write` makes the folder.
"""

from __future__ import annotations

import io
import json
import os
import resource
import struct
import sys
import zlib
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import pyarrow as pa
import pydicom
from images import encapsulated, image, native, pixel_data_at, saved
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEGBaseline8Bit,
    RLELossless,
)

from intake_idc import dicom, lazy, resolve_mirror
from intake_idc.errors import DicomReadError
from intake_idc.lazy import DicomObject
from intake_idc.manifest import Manifest
from intake_idc.storage import Mirror, instances

MEMORY = 2 * 1024**3
"""Bytes of addresses that a reader may take, besides those that it has when it begins:
allocators reserve some for each processor."""
SECONDS = 20
SERIES = "00000000-0000-4000-8000-000000000000"
BOMBS = "00000001-0000-4000-8000-000000000000"
MANY = 10
"""Bombs in a series of nothing else."""
BUCKET = "hostile"


def element(tag: int, vr: bytes, value: bytes, length: int | None = None) -> bytes:
    """An element in explicit, little endian, whose length may be a lie."""
    head = struct.pack("<HH", tag >> 16, tag & 0xFFFF) + vr
    length = len(value) if length is None else length
    if vr in (b"OB", b"OW", b"SQ", b"UN", b"UT", b"UC", b"OF"):
        return head + b"\0\0" + struct.pack("<I", length) + value
    return head + struct.pack("<H", length & 0xFFFF) + value


ITEM = b"\xfe\xff\x00\xe0"
ITEM_END = b"\xfe\xff\x0d\xe0\0\0\0\0"
SEQUENCE_END = b"\xfe\xff\xdd\xe0\0\0\0\0"
UNDEFINED = 0xFFFFFFFF
DECIMALS = b"1.25\\" * 13_000


def nested(depth: int) -> bytes:
    """Sequences in sequences, of undefined length."""
    begin = element(0x00081115, b"SQ", b"", UNDEFINED) + ITEM + b"\xff" * 4
    return begin * depth + (ITEM_END + SEQUENCE_END) * depth


def nested_defined(depth: int) -> bytes:
    """The same, each with its length."""
    data = b""
    for _ in range(depth):
        item = ITEM + struct.pack("<I", len(data)) + data
        data = element(0x00081115, b"SQ", item)
    return data


def build() -> dict[str, bytes]:
    """Give the files, by name."""
    plain = saved(image())
    flat = native(np.zeros((3, 4, 6), np.uint8))
    rle = bytearray(_rle())
    streams = [b"\xff\xd8" + b"x" * 96 + b"\xff\xd9"] * 3
    tabled = encapsulated(streams)
    extended = encapsulated(streams, "extended")
    return {
        "deflate bomb": build_bomb(),
        "million elements": plain + _many_elements(1_000_000),
        "half a million items": plain
        + element(0x0040A730, b"SQ", (ITEM + b"\0" * 4) * 500_000),
        "half a million items, undefined": plain
        + element(0x0040A730, b"SQ", (ITEM + b"\0" * 4) * 500_000, UNDEFINED)
        + SEQUENCE_END,
        "decimals": plain + b"".join(_decimals()),
        "decimals in UN": plain + element(0x30060050, b"UN", b"1.25\\" * 4_000_000),
        "decimals without VR": saved(image(ImplicitVRLittleEndian))
        + struct.pack("<HHI", 0x3006, 0x0050, 20_000_000)
        + b"1.25\\" * 4_000_000,
        "text of 20 MB": plain + element(0x0040A160, b"UT", b"a" * 20_000_000),
        "nested 200": plain + nested(200),
        "nested 2000": plain + nested(2_000),
        "nested 200, defined": plain + nested_defined(200),
        "nested 2000, defined": plain + nested_defined(2_000),
        "rows": _changed(flat, Rows=65535, Columns=65535),
        "frames": _changed(flat, NumberOfFrames=1_000_000),
        "frames below none": _changed(flat, NumberOfFrames=-1),
        "all three": _changed(
            flat, Rows=65535, Columns=65535, NumberOfFrames=2_000_000_000
        ),
        "rle of a million frames": bytes(rle),
        "jpeg of 65500": _jpeg(65500),
        "value of 4 GB": plain + element(0x00204000, b"UT", b"ab", 0xFFFFFFFE),
        "sequence of 4 GB": plain + element(0x0040A730, b"SQ", ITEM, 0xFFFFFFF0),
        "item of 4 GB": plain
        + element(0x0040A730, b"SQ", ITEM + struct.pack("<I", 0xFFFFFFF0), UNDEFINED),
        "pixels of 4 GB": plain + element(0x7FE00010, b"OW", b"ab", 0xFFFFFFF0),
        "table beyond the end": _patched(tabled, 0xFFFFFF00),
        "extended table beyond the end": _extended(extended),
        "unclosed": tabled[: -len(SEQUENCE_END)],
        "unclosed in a frame": tabled[: -len(SEQUENCE_END) - 50],
        "a page": b"<!doctype html><html><body>Not here</body></html>" * 10,
        "empty": b"",
        "preamble": b"\0" * 128 + b"DICM",
        "half a preamble": b"\0" * 100,
        "zeros": b"\0" * 100_000,
        "meta alone": plain[: plain.index(b"\x08\x00\x16\x00")],
        "paths": saved(
            image(
                StudyInstanceUID="1.2.3",
                PatientID="../../../../tmp/escaped",
                SeriesDescription="..\\..\\escaped",
            )
        ),
        "path as uid": plain.replace(b"1.2.3.4\0", b"../../..", 1),
    }


def _many_elements(count: int) -> bytes:
    """Empty elements in order of their tags, from group 0029 on."""
    odd = (group for group in range(0x0029, 0x6001, 2))
    made: list[bytes] = []
    for group in odd:
        head = struct.pack("<H", group)
        made += [
            head + struct.pack("<H", number) + b"LO\0\0"
            for number in range(0x1000, 0xFFFF)
        ]
        if len(made) >= count:
            break
    return b"".join(made[:count])


def _decimals() -> list[bytes]:
    """Values of the most that DS can hold, many of them: 6.5 million numbers."""
    return [
        struct.pack("<HH", 0x3007, number)
        + b"DS"
        + struct.pack("<H", len(DECIMALS))
        + DECIMALS
        for number in range(0x1000, 0x1000 + 500)
    ]


def build_bomb(size: int = 300_000_000) -> bytes:
    """Zeros in one value, deflated to a thousandth."""
    dataset = image(DeflatedExplicitVRLittleEndian)
    data = saved(dataset)
    meta = data[: 132 + 12 + struct.unpack("<I", data[140:144])[0]]
    packer = zlib.compressobj(9, wbits=-zlib.MAX_WBITS)
    packed = packer.compress(element(0x00080016, b"UI", b"1.2\0"))
    packed += packer.compress(element(0x7FE00010, b"OW", b"", size))
    packed += packer.flush(zlib.Z_FULL_FLUSH)
    # What was flushed refers to nothing before it, and can be said again.
    step = packer.compress(b"\0" * 1_000_000) + packer.flush(zlib.Z_FULL_FLUSH)
    packed += step * (size // 1_000_000) + packer.flush()
    return meta + packed + b"\0" * (len(packed) % 2)


def _changed(data: bytes, **elements: int) -> bytes:
    dataset = pydicom.dcmread(io.BytesIO(data))
    for keyword, value in elements.items():
        setattr(dataset, keyword, value)
    return saved(dataset)


def _rle() -> bytes:
    frame = struct.pack("<16I", 1, 64, *([0] * 14)) + b"\x81\0" * 2
    return encapsulated(
        [frame],
        syntax=RLELossless,
        Rows=512,
        Columns=512,
    ).replace(b"IS\x02\x001 ", b"IS\x08\x001000000 ", 1)


def _jpeg(size: int) -> bytes:
    sides = struct.pack(">HH", size, size)
    start = b"\xff\xd8\xff\xc0\x00\x0b\x08" + sides + b"\x01\x01\x11\x00"
    scan = b"\xff\xda\x00\x08\x01\x01\x00\x00\x3f\x00" + b"\0" * 20 + b"\xff\xd9"
    return encapsulated(
        [start + scan], syntax=JPEGBaseline8Bit, Rows=size, Columns=size
    )


def _patched(data: bytes, offset: int) -> bytes:
    """The second entry of the basic offset table leads somewhere else."""
    at = pixel_data_at(data) + 8 + 4
    return data[:at] + struct.pack("<I", offset) + data[at + 4 :]


def _extended(data: bytes) -> bytes:
    at = data.index(b"\xe0\x7f\x01\x00OV") + 12 + 8
    return data[:at] + struct.pack("<Q", 1 << 62) + data[at + 8 :]


def write(root: Path) -> dict[str, str]:
    """Make a mirror of a series of these, and of one of bombs; give uuids by name."""
    (root / BUCKET / SERIES).mkdir(parents=True)
    (root / BUCKET / BOMBS).mkdir()
    uuids = {}
    for number, (name, data) in enumerate(build().items()):
        uuids[name] = uuid(number)
        (root / BUCKET / SERIES / f"{uuids[name]}.dcm").write_bytes(data)
    bomb = build_bomb()
    for number in range(MANY):
        (root / BUCKET / BOMBS / f"{uuid(number)}.dcm").write_bytes(bomb)
    return uuids


def uuid(number: int) -> str:
    return f"{number:08d}-0000-4000-8000-000000000000"


def cohort(series: str) -> Manifest:
    columns = {"crdc_series_uuid": [series], "aws_bucket": [BUCKET]}
    return Manifest(pa.table(columns), 25)


# Reading, in a process of its own.


def values(found: DicomObject) -> object:
    """Read values of the header, among them one of many numbers."""
    keywords = ["PatientID", "SOPInstanceUID", "ContourData", "Rows"]
    return dicom.values(found.header(), keywords, found.url)


WAYS = {
    "header": DicomObject.header,
    "dataset": DicomObject.dataset,
    "values": values,
    # By way of `frame_index`.
    "pixels": DicomObject.pixels,
}


Ways = dict[str, tuple[str, str]]
"""How every way ended: the kind of the failure or "read", and the reason."""


def read(found: DicomObject) -> Ways:
    """Read one object in every way."""
    return {way: ended(partial(act, found)) for way, act in WAYS.items()}


def ended(act: Callable[[], object]) -> tuple[str, str]:
    try:
        act()
    except DicomReadError as error:
        return error.kind, str(error)[:400]
    except Exception as error:  # noqa: BLE001  (it is reported)
        return type(error).__name__, str(error)[:400]
    return "read", ""


def together(manifest: Manifest, mirror: Mirror) -> Ways:
    """Read all of them by every bag and table; give how many rows there were."""
    rows = {}
    makes = {
        "datasets": lazy.datasets,
        "pixels": partial(lazy.map_objects, WAYS["pixels"]),
    }
    for name, make in makes.items():
        found = make(manifest, mirror, on_error="collect").collected()
        rows[name] = "read", str(len(found.results) + len(found.failures))
    table = lazy.headers(
        manifest, mirror, ["PatientID", "Rows", "ContourData"], on_error="collect"
    ).compute()
    return rows | {"headers": ("read", str(len(table)))}


def side_by_side(manifest: Manifest, mirror: Mirror) -> Ways:
    """Read bombs, as many at once as a task reads."""
    found = lazy.datasets(manifest, mirror, on_error="collect").collected()
    return {
        row["url"]: (row["kind"], row["reason"]) for row in found.failures.to_pylist()
    }


def bounded(act: Callable[[], Ways], memory: int = MEMORY) -> dict:
    """Call in a child, and say how it ended and what it took."""
    reading, writing = os.pipe()
    child = os.fork()
    if not child:
        os.close(reading)
        begun = int(Path("/proc/self/statm").read_text().split()[0])
        memory += begun * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (memory, memory))
        resource.setrlimit(resource.RLIMIT_CPU, (SECONDS, SECONDS))
        with os.fdopen(writing, "w") as pipe:
            json.dump(act(), pipe)
        os._exit(0)
    os.close(writing)
    with os.fdopen(reading) as pipe:
        answer = pipe.read()
    _, status, used = os.wait4(child, 0)
    return {
        "ways": {"died": (str(status), "")} if status else json.loads(answer),
        "seconds": used.ru_utime + used.ru_stime,
        "memory": used.ru_maxrss * 1024,
    }


def main() -> None:
    mirror = resolve_mirror(f"{sys.argv[1]}/{{aws_bucket}}")
    rows = {}
    for instance in instances(cohort(SERIES).parts(), mirror):
        found = DicomObject(instance, mirror)
        rows[found.crdc_instance_uuid] = bounded(partial(read, found))
    # Threads reserve addresses, of which they use little.
    for name, act, series in (
        ("all", together, SERIES),
        ("bombs", side_by_side, BOMBS),
    ):
        rows[name] = bounded(partial(act, cohort(series), mirror), 4 * MEMORY)
    print(json.dumps(rows))  # noqa: T201


if __name__ == "__main__":
    main()
