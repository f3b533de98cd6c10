"""Lazy reading from a store that is 30 or 100 ms away: headers, frames, volumes.

Objects are made in a folder: a CT series of 200 slices of 512 x 512 (106 MB), and three
objects of 20,000 JPEG tiles (90 MB), with a basic offset table, an extended one, and
none. `tests/faults.py` serves them as S3 on loopback with a latency before each answer
and 50 MB/s a connection, and logs what it is asked. Every figure is of a process of
its own, timed after its imports and one request that opens the connection; candidates
take turns, and the figures are medians. Graph and decoders are timed without a store.

    python benchmarks/lazy.py --rounds 5
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import urllib.request
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from measuring import versions
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.encaps import encapsulate, encapsulate_extended
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, JPEGBaseline8Bit

SERVER = Path(__file__).resolve().parents[1] / "tests" / "faults.py"
BUCKET = "bench"
CT = "11111111-1111-4111-8111-111111111111"
SLICES = 200
AT_ONCE = 32
"""Requests in flight."""
BANDWIDTH = 50e6
"""Bytes a second that a connection brings."""
TILED = {
    "basic": "22222222-2222-4222-8222-222222222222",
    "extended": "33333333-3333-4333-8333-333333333333",
    "none": "44444444-4444-4444-8444-444444444444",
}
TILES = 20_000
KEYWORDS = (
    "SOPInstanceUID",
    "SeriesInstanceUID",
    "InstanceNumber",
    "ImagePositionPatient",
    "ImageOrientationPatient",
    "PixelSpacing",
    "SliceThickness",
    "Rows",
    "Columns",
    "BitsStored",
    "PixelRepresentation",
    "RescaleSlope",
    "RescaleIntercept",
    "Modality",
    "KVP",
    "ConvolutionKernel",
)

COMMON = """
import io, json, sys, time, urllib.request
endpoint, keywords = sys.argv[1], {keywords!r}
bucket, ct, tiled = {bucket!r}, {ct!r}, {tiled!r}
sizes = json.load(open(sys.argv[2]))
def begin():
    urllib.request.urlopen(endpoint + "/-/script", b"[]").close()
    return time.perf_counter()
def done(seconds, answer):
    print(json.dumps({{"seconds": seconds, "answer": answer}}))
"""

OURS = """
import pyarrow as pa
from intake_idc import lazy, resolve_mirror
from intake_idc.manifest import Manifest
mirror = resolve_mirror("s3://{{aws_bucket}}", endpoint_url=endpoint)
def manifest(uuid):
    found = [size for key, size in sizes.items() if key.startswith(uuid)]
    return Manifest(pa.table({{
        "crdc_series_uuid": [uuid], "aws_bucket": [bucket],
        "instanceCount": [len(found)], "series_size_MB": [sum(found) / 1e6],
        "row_source": ["idc_index"],
    }}), 25)
from intake_idc.storage import open_store
import dask, dask.dataframe, distributed, imagecodecs, numpy, pydicom, xarray
open_store(mirror, bucket).read(next(iter(sizes)), 0, 8)
"""

PEER = """
import dask, distributed, fsspec, pydicom, numpy as np
import pydicom.pixels, PIL.Image
from concurrent.futures import ThreadPoolExecutor
fs = fsspec.filesystem("http")
url = endpoint + "/" + bucket + "/"
names = sorted(key for key in sizes if key.startswith(ct))
fs.cat_file(url + next(iter(sizes)), start=0, end=8)
"""

SCRIPTS: dict[str, dict[str, str]] = {
    "headers of 200 CT objects": {
        "ours: headers(tags)": OURS
        + """
start = begin()
found = lazy.headers(manifest(ct), mirror, keywords).compute()
done(time.perf_counter() - start, sorted(found["SOPInstanceUID"]))
""",
        "fs.open + dcmread, one by one": PEER
        + """
start = begin()
found = []
for name in names:
    with fs.open(url + name) as file:
        header = pydicom.dcmread(file, stop_before_pixels=True)
        found.append([header.get(k) for k in keywords][0])
done(time.perf_counter() - start, sorted(found))
""",
        "fs.open + dcmread, 32 threads": PEER
        + """
def one(name):
    with fs.open(url + name) as file:
        header = pydicom.dcmread(file, stop_before_pixels=True)
        return [header.get(k) for k in keywords][0]
start = begin()
with ThreadPoolExecutor(32) as pool:
    found = list(pool.map(one, names))
done(time.perf_counter() - start, sorted(found))
""",
        "parse alone, from memory": PEER
        + """
data = fs.cat([url + name for name in names])
held = [data[url + name][: 16 * 1024] for name in names]
start = begin()
found = []
for one in held:
    header = pydicom.dcmread(io.BytesIO(one), stop_before_pixels=True)
    found.append([header.get(k) for k in keywords][0])
done(time.perf_counter() - start, sorted(found))
""",
    },
    "a volume of 200 slices": {
        "ours: to_volume(compute=True)": OURS
        + """
start = begin()
found = lazy.to_volume(manifest(ct), mirror, compute=True).values
done(time.perf_counter() - start, [list(found.shape), int(found.sum(dtype="i8"))])
""",
        "ours: to_volume().compute()": OURS
        + """
start = begin()
found = lazy.to_volume(manifest(ct), mirror).values
done(time.perf_counter() - start, [list(found.shape), int(found.sum(dtype="i8"))])
""",
        "one delayed per slice, fs.open": PEER
        + """
import dask
@dask.delayed
def one(name):
    with fs.open(url + name) as file:
        dataset = pydicom.dcmread(file)
        return float(dataset.ImagePositionPatient[2]), dataset.pixel_array
start = begin()
slices = sorted(dask.compute(*map(one, names)), key=lambda pair: pair[0])
found = np.stack([pixels for _, pixels in slices])
done(time.perf_counter() - start, [list(found.shape), int(found.sum(dtype="i8"))])
""",
        "decode alone, from memory": PEER
        + """
data = fs.cat([url + name for name in names])
held = [data[url + name] for name in names]
start = begin()
out = np.empty((len(held), 512, 512), "i2")
place = []
for at, one in enumerate(held):
    dataset = pydicom.dcmread(io.BytesIO(one))
    place.append(float(dataset.ImagePositionPatient[2]))
    out[at] = dataset.pixel_array
out = out[np.argsort(place)]
done(time.perf_counter() - start, [list(out.shape), int(out.sum(dtype="i8"))])
""",
    },
}
for _table in TILED:
    SCRIPTS[f"frame 12,345 of 20,000, offset table: {_table}"] = {
        "ours: pixels(i)": OURS
        + f"""
(handle,) = lazy.objects(manifest(tiled[{_table!r}]), mirror).compute()
start = begin()
found = handle.pixels(12345)
done(time.perf_counter() - start, int(found.sum()))
""",
        "whole file, then decode": PEER
        + f"""
from pydicom.pixels import pixel_array
name = next(key for key in sizes if key.startswith(tiled[{_table!r}]))
start = begin()
found = pixel_array(io.BytesIO(fs.cat_file(url + name)), index=12345, raw=True)
done(time.perf_counter() - start, int(found.sum()))
""",
        "pydicom over fs.open, blocks of 64 KiB": PEER
        + f"""
from pydicom.pixels import pixel_array
name = next(key for key in sizes if key.startswith(tiled[{_table!r}]))
start = begin()
with fs.open(url + name, block_size=64 * 1024) as file:
    found = pixel_array(file, index=12345, raw=True)
done(time.perf_counter() - start, int(found.sum()))
""",
    }

ONCE = {
    (
        "frame 12,345 of 20,000, offset table: none",
        "pydicom over fs.open, blocks of 64 KiB",
    )
}
"""Takes minutes: one run."""

GRAPH = """
import json, pickle, time
import numpy as np
from intake_idc import lazy, open_idc, resolve_mirror
manifest = open_idc(25).search(Modality="CT").manifest()
counts = np.cumsum(manifest.table.column("instanceCount").to_pylist())
million = manifest.take(list(range(int(np.searchsorted(counts, 10**6)) + 1)))
mirror = resolve_mirror("aws")
lazy.objects(manifest.take([0]), mirror)
seconds = {}
for name, make in {
    "handles": lambda: lazy.objects(million, mirror),
    "headers only": lambda: lazy.datasets(million, mirror, headers_only=True),
}.items():
    start = time.perf_counter()
    bag = make()
    spent = time.perf_counter() - start
    seconds[name] = [spent, bag.npartitions, len(pickle.dumps(dict(bag.dask)))]
print(json.dumps(seconds))
"""

DECODERS = """
import json, time
import imagecodecs, numpy as np
from pydicom import Dataset, uid
from intake_idc import dicom
rng = np.random.default_rng(0)
y, x = np.mgrid[:1024, :1024]
smooth = 2000 + 1500 * np.sin(x / 90) * np.cos(y / 70) + rng.normal(0, 12, x.shape)
image = smooth.clip(0, 4095).astype("u2")
low = (image >> 4).astype("u1")
STREAMS = {
    uid.ExplicitVRLittleEndian: (image, 16, lambda a: a.tobytes()),
    uid.RLELossless: (image, 16, None),
    uid.JPEGBaseline8Bit: (low, 8, lambda a: imagecodecs.jpeg8_encode(a)),
    uid.JPEGLosslessSV1: (
        image, 16, lambda a: imagecodecs.ljpeg_encode(a, bitspersample=16)
    ),
    uid.JPEGLSLossless: (image, 16, lambda a: imagecodecs.jpegls_encode(a)),
    uid.JPEG2000Lossless: (
        image, 16,
        lambda a: imagecodecs.jpeg2k_encode(a, codecformat="j2k", reversible=True),
    ),
}
from pydicom.pixels import get_encoder
out = {}
for syntax, (array, bits, encode) in STREAMS.items():
    index = dicom.FrameIndex(
        transfer_syntax=str(syntax), frames=1, rows=1024, columns=1024, samples=1,
        bits_allocated=bits, bits_stored=8 if bits == 8 else 16, high_bit=bits - 1,
        pixel_representation=0, photometric_interpretation="MONOCHROME2",
        planar_configuration=0, keyword="PixelData", swapped=False,
        size=2**30, start=0,
    )
    if encode is None:
        data = get_encoder(syntax).encode(
            array, encoding_plugin="pydicom", rows=1024, columns=1024,
            samples_per_pixel=1, number_of_frames=1, bits_allocated=16,
            bits_stored=16, pixel_representation=0,
            photometric_interpretation="MONOCHROME2",
        )
    else:
        data = encode(array)
    times = []
    for _ in range(7):
        start = time.perf_counter()
        decoded = dicom.decode(index, data, 0)
        times.append(time.perf_counter() - start)
    lossless = bits == 16
    assert not lossless or (decoded == array).all(), syntax.name
    out[syntax.name] = array.nbytes / sorted(times)[3] / 1e6
print(json.dumps(out))
"""


def make_series(folder: Path, rows: int = 512) -> None:
    """Write the CT series, of square slices."""
    rng = np.random.default_rng(0)
    base = rng.integers(-1000, 2000, (rows, rows), "i2")
    for number in range(SLICES):
        dataset = _ct(number)
        dataset.Rows = dataset.Columns = rows
        dataset.PixelData = (base + number).astype("i2").tobytes()
        _save(dataset, folder, CT, f"{number:032x}", ExplicitVRLittleEndian)


def make_objects(folder: Path) -> dict[str, int]:
    """Write the objects; sizes by key."""
    import imagecodecs

    make_series(folder)

    y, x = np.mgrid[:240, :240]
    tiles = []
    for number in range(TILES):
        shade = (x + y + number) % 256
        if number < 64:  # noqa: PLR2004 - as many different ones are enough
            image = np.stack([shade, shade[::-1], shade.T], axis=-1).astype("u1")
            tiles.append(imagecodecs.jpeg8_encode(image, level=75))
        else:
            # Of other lengths, so that no offset is a multiple of another.
            pad = (
                b"\xff\xfe" + (2 + number % 97).to_bytes(2, "big") + bytes(number % 97)
            )
            tile = tiles[number % 64]
            tiles.append(tile[:2] + pad + tile[2:])
    for table, uuid in TILED.items():
        dataset = _tiled(uuid)
        if table == "extended":
            data, offsets, lengths = encapsulate_extended(tiles)
            dataset.ExtendedOffsetTable = offsets
            dataset.ExtendedOffsetTableLengths = lengths
        else:
            data = encapsulate(tiles, has_bot=table == "basic")
        dataset.PixelData = data
        dataset["PixelData"].VR = "OB"
        dataset["PixelData"].is_undefined_length = True
        _save(dataset, folder, uuid, "f" * 32, JPEGBaseline8Bit)
    return {
        f"{path.parent.name}/{path.name}": path.stat().st_size
        for path in sorted((folder / BUCKET).glob("*/*.dcm"))
    }


def _ct(number: int) -> Dataset:
    dataset = Dataset()
    dataset.SOPClassUID = CTImageStorage
    dataset.SOPInstanceUID = f"1.2.826.0.1.3680043.8.498.{number + 1}"
    dataset.Modality, dataset.PatientID = "CT", "BENCH"
    dataset.StudyInstanceUID = "1.2.826.0.1.3680043.8.498.9001"
    dataset.SeriesInstanceUID = "1.2.826.0.1.3680043.8.498.9002"
    dataset.FrameOfReferenceUID = "1.2.826.0.1.3680043.8.498.9003"
    dataset.ImageType = ["ORIGINAL", "PRIMARY", "AXIAL"]
    dataset.KVP, dataset.ConvolutionKernel = 120, "B30f"
    dataset.InstanceNumber = number + 1
    dataset.ImagePositionPatient = [-180, -180, 1.25 * (number * 77 % SLICES)]
    dataset.ImageOrientationPatient = [1, 0, 0, 0, 1, 0]
    dataset.PixelSpacing, dataset.SliceThickness = [0.7, 0.7], 1.25
    dataset.SamplesPerPixel, dataset.PhotometricInterpretation = 1, "MONOCHROME2"
    dataset.BitsAllocated = dataset.BitsStored = 16
    dataset.HighBit, dataset.PixelRepresentation = 15, 1
    dataset.RescaleSlope, dataset.RescaleIntercept = 1, -1024
    # As much again as a scanner's private groups take.
    dataset.private_block(0x0009, "BENCH", create=True).add_new(0x10, "OB", bytes(4000))
    return dataset


def _tiled(uuid: str) -> Dataset:
    dataset = Dataset()
    dataset.SOPClassUID = "1.2.840.10008.5.1.4.1.1.77.1.6"
    dataset.SOPInstanceUID = f"1.2.826.0.1.3680043.8.498.{int(uuid[0])}000"
    dataset.Modality = "SM"
    dataset.NumberOfFrames = TILES
    dataset.Rows = dataset.Columns = 240
    dataset.SamplesPerPixel, dataset.PhotometricInterpretation = 3, "YBR_FULL_422"
    dataset.PlanarConfiguration = 0
    dataset.BitsAllocated = dataset.BitsStored = 8
    dataset.HighBit, dataset.PixelRepresentation = 7, 0
    return dataset


def _save(dataset: Dataset, folder: Path, uuid: str, name: str, syntax: str) -> None:
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = syntax
    target = folder / BUCKET / uuid
    target.mkdir(parents=True, exist_ok=True)
    named = f"{name[:8]}-{name[8:12]}-{name[12:16]}-{name[16:20]}-{name[20:]}"
    dataset.save_as(target / f"{named}.dcm", enforce_file_format=True)


@dataclass(frozen=True)
class Timed:
    """One process: what it measured of itself, and what the server saw."""

    seconds: float
    requests: int
    megabytes: float
    answer: object


def run(script: str, endpoint: str, sizes: Path, python: str) -> Timed:
    """Run one candidate in a process of its own."""
    text = (COMMON + script).replace("{{aws_bucket}}", "{aws_bucket}")
    text = text.replace("{keywords!r}", repr(KEYWORDS)).replace(
        "{bucket!r}", repr(BUCKET)
    )
    text = text.replace("{ct!r}", repr(CT)).replace("{tiled!r}", repr(TILED))
    text = text.replace("{{", "{").replace("}}", "}")
    done = subprocess.run(
        [python, "-c", text, endpoint, str(sizes)],
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise SystemExit(f"a candidate failed:\n{done.stderr[-3000:]}")
    told = json.loads(done.stdout.splitlines()[-1])
    log = json.loads(_ask(f"{endpoint}/-/requests"))
    return Timed(
        told["seconds"],
        len(log),
        sum(entry.get("sent", 0) for entry in log) / 1e6,
        told["answer"],
    )


def _ask(url: str, data: bytes | None = None) -> bytes:
    with urllib.request.urlopen(url, data) as answer:  # noqa: S310 - on loopback
        return answer.read()


def section(
    title: str,
    scripts: dict[str, str],
    endpoint: str,
    sizes: Path,
    given: argparse.Namespace,
) -> dict[str, float]:
    """Measure the candidates of one section in turn, and print its table."""
    runs: dict[str, list[Timed]] = {name: [] for name in scripts}
    for number in range(given.rounds):
        for name, script in scripts.items():
            if number == 0 or (title, name) not in ONCE:
                runs[name].append(run(script, endpoint, sizes, given.python))
        answers = {json.dumps(runs[name][-1].answer) for name in scripts}
        if len(answers) != 1:
            raise SystemExit(f"{title}: the candidates do not agree")
    medians = {
        name: statistics.median(timed.seconds for timed in found)
        for name, found in runs.items()
    }
    first = next(iter(scripts))
    print(f"\n{title}\n")
    print("| program | s | times ours | requests | MB sent |")
    print("|---|---:|---:|---:|---:|")
    for name, found in runs.items():
        ratios = [
            timed.seconds / ours.seconds
            for timed, ours in zip(found, runs[first], strict=False)
        ]
        print(
            f"| {name} | {medians[name]:.3f} | {statistics.median(ratios):.1f} "
            f"| {found[-1].requests} | {found[-1].megabytes:.1f} |"
        )
    sys.stdout.flush()
    return medians


def main() -> None:
    """Make the objects, start the servers, and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--python", default=sys.executable)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--latency", type=float, action="append", help="seconds")
    parser.add_argument("--only", default="", help="sections whose title holds this")
    given = parser.parse_args()
    names = ("intake-idc", "pydicom", "fsspec", "aiohttp", "obstore", "dask", "numpy")
    print(versions(given.python, *names), f"; load {os.getloadavg()[0]:.1f}")
    with tempfile.TemporaryDirectory(dir=_memory()) as temporary:
        folder = Path(temporary)
        sizes = folder / "sizes.json"
        sizes.write_text(json.dumps(make_objects(folder)))
        for latency in given.latency or (0.03, 0.1):
            _with_server(folder, sizes, latency, given)
    if not given.only:
        _alone(given)


def _memory() -> str | None:
    # The disk is not what is measured.
    return "/dev/shm" if os.access("/dev/shm", os.W_OK) else None  # noqa: S108


def _with_server(
    folder: Path, sizes: Path, latency: float, given: argparse.Namespace
) -> None:
    command = [sys.executable, SERVER, "--root", folder]
    command += ["--latency", latency, "--bandwidth", BANDWIDTH]
    with subprocess.Popen(
        list(map(str, command)), stdout=subprocess.PIPE, text=True
    ) as server:
        port = (server.stdout or sys.stdin).readline().strip()
        print(f"\n## {1000 * latency:.0f} ms")
        try:
            for title, scripts in SCRIPTS.items():
                if given.only in title:
                    found = section(
                        title, scripts, f"http://127.0.0.1:{port}", sizes, given
                    )
                    _against_ideal(title, found, sizes, latency)
        finally:
            server.terminate()


def _against_ideal(
    title: str, medians: dict[str, float], sizes: Path, latency: float
) -> None:
    """Say how far ours is from waiting and working alone."""
    alone = next((s for name, s in medians.items() if "alone" in name), None)
    if alone is None:
        return
    length = 16 * 1024
    if "volume" in title:
        listed = json.loads(sizes.read_text())
        length = next(size for key, size in listed.items() if key.startswith(CT))
    each = latency + length / BANDWIDTH
    waiting = SLICES * each / AT_ONCE
    ours = next(iter(medians.values()))
    print(
        f"\nours / ({SLICES} requests x {1000 * each:.0f} ms / {AT_ONCE} at once + "
        f"{alone:.3f} s of work) = {ours / (waiting + alone):.2f}"
    )


def _alone(given: argparse.Namespace) -> None:
    graphs = [
        json.loads(subprocess.check_output([given.python, "-c", GRAPH]))
        for _ in range(given.rounds)
    ]
    print("\n## Graph of 1,000,000 instances of CT\n")
    print("| bag | s | partitions | bytes pickled |")
    print("|---|---:|---:|---:|")
    for name in graphs[0]:
        seconds = statistics.median(found[name][0] for found in graphs)
        print(
            f"| {name} | {seconds:.3f} | {graphs[0][name][1]:,} "
            f"| {graphs[0][name][2]:,} |"
        )
    decoders = json.loads(subprocess.check_output([given.python, "-c", DECODERS]))
    print("\n## Decoding, one frame of 1024 x 1024\n")
    print("| transfer syntax | MB/s |")
    print("|---|---:|")
    for name, speed in decoders.items():
        print(f"| {name} | {speed:.0f} |")


if __name__ == "__main__":
    main()
