"""Cohorts of noise in a bucket that fails, their copies, and a judge of those.

No index is needed: the cohort is a manifest that says count and bytes of each series.
"""

from __future__ import annotations

import hashlib
import random
from array import array
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path

from servers import Faulty

from intake_idc import resolve_mirror
from intake_idc.cohort import Cohort
from intake_idc.errors import IDCError, TransferError
from intake_idc.manifest import Manifest
from intake_idc.release.rows import FixedRows
from intake_idc.transfer import Report

BUCKET = "idc-open-data"
TEMPLATE = "%crdc_series_uuid"
QUICK = {"read_timeout": 0.4, "retry_timeout": 1.0}


def uuid(number: int) -> str:
    return f"{number:08x}-0000-4000-8000-000000000000"


def put_series(root: Path, number: int, sizes: Iterable[int]) -> str:
    """Put objects of noise of these sizes below a bucket; give the series' uuid."""
    noise = random.Random(number)  # noqa: S311  (the same noise each time)
    folder = root / BUCKET / uuid(number)
    folder.mkdir(parents=True)
    for place, size in enumerate(sizes):
        (folder / f"{uuid(place)}.dcm").write_bytes(noise.randbytes(size))
    return uuid(number)


def named(series: str, number: int = 0) -> str:
    """What the server calls an object."""
    return f"{BUCKET}/{series}/{uuid(number)}.dcm"


def files(root: Path, series: str) -> list[Path]:
    return sorted((root / BUCKET / series).glob("*.dcm"))


def cohort(root: Path, *series: str, **columns: list[str]) -> Cohort:
    """Give these series as a cohort; a series may have more objects than lie there."""
    import pyarrow as pa

    # Arrow looks for pandas before it takes a list, which is large.
    from intake_idc.arrow import integers, texts

    sizes = [sum(path.stat().st_size for path in files(root, one)) for one in series]
    megabytes = array("d", [size / 1e6 for size in sizes])
    rows = {
        "crdc_series_uuid": texts(list(series)),
        "aws_bucket": texts([BUCKET] * len(series)),
        "instanceCount": integers([max(1, len(files(root, one))) for one in series]),
        "series_size_MB": pa.Array.from_buffers(
            pa.float64(), len(sizes), [None, pa.py_buffer(megabytes)]
        ),
        "row_source": texts(["idc_index"] * len(series)),
        **{name: texts(values) for name, values in columns.items()},
    }
    return Cohort(FixedRows(Manifest(pa.table(rows), 25)))


def knowing(found: Cohort, root: Path, *series: str) -> Cohort:
    """Give the cohort, knowing its objects and their MD5."""
    import pyarrow as pa

    paths = [path for one in series for path in files(root, one)]
    return found.with_instances(
        pa.table(
            {
                "crdc_series_uuid": [path.parent.name for path in paths],
                "crdc_instance_uuid": [path.stem for path in paths],
                "instance_size": [path.stat().st_size for path in paths],
                "instance_hash": [
                    hashlib.md5(path.read_bytes()).hexdigest()  # noqa: S324
                    for path in paths
                ],
            }
        )
    )


def at(server: Faulty, engine: str = "obstore", **options: float):
    return resolve_mirror(
        "aws",
        endpoint_url=server.endpoint,
        engine=engine,
        storage_options=QUICK | options,
    )


def copied(found: Cohort, target: Path, **options) -> tuple[int, Report | None]:
    """Copy a cohort; give what the command would end with, and the report."""
    options = {"dir_template": TEMPLATE, "notice": False, **options}
    try:
        return 0, found.materialize(target, **options)
    except TransferError as error:
        return error.exit_code, error.report
    except IDCError as error:
        return error.exit_code, None


def held(target: Path) -> dict[str, str]:
    """Digest of every file of a copy, by its path; the records are left out."""
    return {
        path.relative_to(target).as_posix(): hashlib.sha256(
            path.read_bytes()
        ).hexdigest()
        for path in sorted(target.rglob("*"))
        if path.is_file() and path.relative_to(target).parts[0] != ".idc"
    }


def truth(root: Path, *series: str) -> dict[str, str]:
    """Digest of every object of these series, by the path that its copy has."""
    return {
        f"{one}/{path.name}": hashlib.sha256(path.read_bytes()).hexdigest()
        for one in series
        for path in files(root, one)
    }


def whole(target: Path) -> dict[str, str]:
    """Digest of every file of a copy that has its name."""
    return {
        path: digest
        for path, digest in held(target).items()
        if not path.endswith(".part")
    }


def left(target: Path) -> list[str]:
    """Names of part files, wherever they are."""
    return [path.name for path in target.rglob("*.part")] if target.exists() else []


def asked(server: Faulty) -> Mapping[str, int]:
    """How often each object and listing was asked for since the last script."""
    return Counter(request["target"] for request in server.requests())
