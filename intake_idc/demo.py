"""The main job, end to end: catalog, cohort, manifest, lazy DICOM, verified copy.

It needs no network: the cohort is of the real index, which the installed package
``idc-index-data`` carries, and the objects are those of the embedded sample. With
a network, a mirror of the real buckets takes the sample's place.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import intake

from intake_idc import display
from intake_idc.cohort import Cohort, open_manifest
from intake_idc.drivers import catalog_path

if TYPE_CHECKING:
    from collections.abc import Callable

    from intake_idc.lazy import DicomObject

__all__ = ["run"]

COHORT = {"collection_id": "nlst", "Modality": "SM"}
"""Slides of NLST: some series were added since release 20, many were revised."""
OLDER = 20
SAMPLE = {"Modality": ["CT", "MR"]}
REAL = {"collection_id": "rider_pilot", "Modality": "CT"}
KEYWORDS = ["Modality", "InstanceNumber", "Rows", "Columns", "PixelSpacing"]


def run(mirror: str | None = None, say: Callable[[str], object] = print) -> None:
    """Run the demo.

    Parameters
    ----------
    mirror : str, optional
        Where objects are read: None is the embedded sample, "aws" or "gcs" are
        IDC's real buckets.
    say : callable
        Takes each line that is shown.
    """
    catalog = intake.open_catalog(catalog_path())
    release = catalog.idc
    say(f"1. intake.open_catalog({catalog_path()!r}).idc")
    say(f"   {release.release.info}")
    say("")

    cohort = release.search(**COHORT)
    say(f"2. search({_arguments(COHORT)})")
    say(_indented(cohort.cohort))
    older = release(idc_version=OLDER).search(**COHORT)
    counts = older.counts()
    say(
        f"   at release {OLDER}: {display.count_text(counts['series'], 'series')}, "
        f"{display.bytes_text(counts['bytes'])}"
    )
    say(_indented(cohort.diff(OLDER)))
    say("")

    with tempfile.TemporaryDirectory(prefix="intake-idc-demo-") as folder:
        path = older.to_manifest(Path(folder) / "cohort.s5cmd")
        again = open_manifest(path)
        same = again.manifest() == older.manifest()
        say(f"3. to_manifest({path.name!r}), and open_manifest({path.name!r})")
        say(f"   {path.read_text('utf-8').splitlines()[-1]}")
        say(
            f"   read back: {display.count_text(len(again), 'series')} of release "
            f"{again.idc_version}, {'the same' if same else 'NOT the same'}"
        )
        say("")
        _objects(catalog, mirror, Path(folder), say)
    say("Next:")
    say("   intake-idc select collection_id=rider_pilot Modality=CT")
    say("   python -c \"import intake; print(intake.open_idc().nlst(Modality='CT'))\"")
    if mirror is None:
        say("   intake-idc demo --mirror aws      the same, from the real buckets")
    say("   intake-idc --help")


def _objects(
    catalog: Any, mirror: str | None, folder: Path, say: Callable[[str], object]
) -> None:
    """Read lazily, then copy and verify."""
    if mirror is None:
        cohort: Cohort = catalog.sample.search(**SAMPLE).cohort
        name, question = "sample", _arguments(SAMPLE)
    else:
        whole: Cohort = catalog.idc.cohort.reading_from(mirror)
        rows = whole.search(**REAL).table.to_pylist()
        smallest = min(rows, key=lambda row: row["series_size_MB"])
        series = {"SeriesInstanceUID": smallest["SeriesInstanceUID"]}
        cohort = whole.search(**series)
        name, question = "idc", _arguments(series)
    say(f"4. {name}.search({question}).to_dask()")
    bag = cohort.to_dask(partition_bytes="1 MiB")
    counts = cohort.counts()
    say(
        f"   {bag}: {display.count_text(counts['series'], 'series')}, "
        f"{display.count_text(counts['instances'], 'instance')}, "
        f"{display.bytes_text(counts['bytes'])}; nothing is opened yet"
    )
    rows = cohort.header_rows(KEYWORDS).compute()
    means: list[float] = bag.map(_mean).compute()
    header = [*KEYWORDS, "mean of slice"]
    table = [
        [*(row[keyword] for keyword in KEYWORDS), f"{mean:.1f}"]
        for row, mean in zip(rows, means, strict=True)
    ]
    say(_indented(display.rows(header, table)))
    say("")

    one = cohort.search(SeriesInstanceUID=cohort.keys()[0])
    target = folder / "copy"
    say("5. materialize one series, verify it, and materialize it again")
    say(_indented(one.materialize(target)))
    say(_indented(one.verify(target)))
    say(_indented(one.materialize(target)))
    say("")


def _mean(found: DicomObject) -> float:
    return float(found.pixels().mean())


def _arguments(columns: dict[str, Any]) -> str:
    return ", ".join(f"{name}={value!r}" for name, value in columns.items())


def _indented(value: object) -> str:
    return "\n".join(f"   {line}" for line in str(value).splitlines())
