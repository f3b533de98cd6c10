"""Build the embedded sample: its bucket, its index tables, its licences.

``sample_sources.json`` says which file of which repository belongs to which series
and release. The objects lie under ``intake_idc/sample/bucket/`` and are never
altered; the tables are made from their headers::

    python tools/build_sample.py              # tables and licences, from the bucket
    python tools/build_sample.py FOLDER       # the bucket too, from files below FOLDER

Files below FOLDER are recognised by their SHA-256, whatever their names.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import sys
import uuid
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pydicom
from pydicom.uid import UID

TOOLS = Path(__file__).parent
SAMPLE = TOOLS.parent / "intake_idc" / "sample"
NAMESPACE = uuid.uuid5(uuid.NAMESPACE_OID, "intake-idc sample")

LARGE = pa.large_string()
INDEX = pa.schema(
    [
        *(
            (name, LARGE)
            for name in (
                "collection_id", "analysis_result_id", "PatientID",
                "SeriesInstanceUID", "StudyInstanceUID", "source_DOI", "PatientAge",
                "PatientSex", "StudyDate", "StudyDescription", "BodyPartExamined",
                "Modality", "SOPClassUID", "sop_class_name", "TransferSyntaxUID",
                "transfer_syntax_name", "PhotometricInterpretation",
                "PixelRepresentation", "Manufacturer", "ManufacturerModelName",
                "SeriesDate", "SeriesDescription", "SeriesNumber",
            )
        ),
        ("instanceCount", pa.int64()),
        ("license_short_name", LARGE),
        ("series_init_idc_version", pa.int64()),
        ("series_revised_idc_version", pa.int64()),
        ("aws_bucket", LARGE),
        ("crdc_series_uuid", LARGE),
        ("series_aws_url", LARGE),
        ("series_size_MB", pa.float64()),
    ]
)  # fmt: skip
PRIOR = pa.schema(
    [
        *(
            (name, LARGE)
            for name in (
                "collection_id", "PatientID", "SeriesInstanceUID", "StudyInstanceUID",
                "Modality", "gcs_bucket", "crdc_series_uuid",
            )
        ),
        ("series_size_MB", pa.float64()),
        ("series_aws_url", LARGE),
        ("aws_bucket", LARGE),
        ("min_idc_version", pa.int64()),
        ("max_idc_version", pa.int64()),
    ]
)  # fmt: skip
# The published tables have 32-bit strings inside structs, and only there.
STRING = pa.string()
LICENSE = pa.struct(
    [(f"license_{name}", STRING) for name in ("url", "long_name", "short_name")]
)
PROVENANCE = pa.struct(
    [
        (name, STRING)
        for name in (
            "data_contributor", "source_data_provider", "deidentification_party",
            "dicom_conversion_by",
        )
    ]
)  # fmt: skip
SOURCE = pa.struct(
    [
        ("source_id", STRING),
        ("source_title", STRING),
        ("source_type", STRING),
        ("source_doi", STRING),
        ("source_url", STRING),
        ("modalities", STRING),
        ("license", LICENSE),
        ("citation", STRING),
        ("provenance", PROVENANCE),
        ("Access", STRING),
        ("ImageTypes", STRING),
    ]
)
COLLECTIONS = pa.schema(
    [
        ("collection_name", LARGE),
        ("collection_id", LARGE),
        ("cancer_types", LARGE),
        ("tumor_locations", LARGE),
        ("subjects", pa.int64()),
        ("species", LARGE),
        ("sources", pa.list_(SOURCE)),
        ("supporting_data", LARGE),
        ("program_id", LARGE),
        ("status", LARGE),
        ("updated", LARGE),
        ("description", LARGE),
    ]
)
ANALYSES = pa.schema(
    [
        *(
            (name, LARGE)
            for name in (
                "analysis_result_id", "analysis_result_title", "source_DOI",
                "source_url",
            )
        ),
        ("subjects", pa.int64()),
        *(
            (name, LARGE)
            for name in (
                "collections", "modalities", "updated", "license_url",
                "license_long_name", "license_short_name", "description", "citation",
            )
        ),
        ("provenance", PROVENANCE),
    ]
)  # fmt: skip
VERSIONS = pa.schema([("idc_version", pa.int64()), ("version_timestamp", LARGE)])

HEADER = (
    "PatientID", "SeriesInstanceUID", "StudyInstanceUID", "PatientAge", "PatientSex",
    "StudyDescription", "BodyPartExamined", "Modality", "Manufacturer",
    "ManufacturerModelName", "SeriesDescription",
)  # fmt: skip
LICENSES = {
    "MIT": ("MIT License", "https://opensource.org/license/mit"),
    "BSD-2-Clause": (
        'BSD 2-Clause "Simplified" License',
        "https://opensource.org/license/bsd-2-clause",
    ),
}


def series_uuid(uid: str, revision: int) -> str:
    """Give the crdc_series_uuid of a revision of a series."""
    return str(uuid.uuid5(NAMESPACE, f"series {uid} {revision}"))


def instance_uuid(uid: str) -> str:
    """Give the crdc_instance_uuid of an instance; a revision keeps it."""
    return str(uuid.uuid5(NAMESPACE, f"instance {uid}"))


def fill_bucket(spec: dict[str, Any], folder: Path) -> None:
    """Copy each object of the sample out of a folder, by its SHA-256."""
    files = (path for path in sorted(folder.rglob("*")) if path.is_file())
    by_digest = {hashlib.sha256(path.read_bytes()).hexdigest(): path for path in files}
    bucket = SAMPLE / "bucket"
    shutil.rmtree(bucket, ignore_errors=True)
    for series in spec["series"]:
        for digest in series["files"].values():
            source = by_digest[digest]
            header = pydicom.dcmread(source, stop_before_pixels=True)
            uid = series_uuid(header.SeriesInstanceUID, series["revision"])
            target = bucket / uid / f"{instance_uuid(header.SOPInstanceUID)}.dcm"
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source, target)


def objects() -> dict[str, list[tuple[Path, pydicom.Dataset]]]:
    """Give the objects of the bucket by the SHA-256 of their bytes, with headers."""
    found: dict[str, list[tuple[Path, pydicom.Dataset]]] = {}
    for path in sorted((SAMPLE / "bucket").glob("*/*.dcm")):
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
        header = pydicom.dcmread(path, stop_before_pixels=True)
        found.setdefault(digest, []).append((path, header))
    return found


def members(
    series: dict[str, Any], by_digest: dict[str, list[tuple[Path, pydicom.Dataset]]]
) -> tuple[str, list[tuple[Path, pydicom.Dataset]]]:
    """Give the uuid of a series, and its objects in the order of their keys."""
    held = []
    for digest in series["files"].values():
        for path, header in by_digest[digest]:
            uid = series_uuid(header.SeriesInstanceUID, series["revision"])
            if path.parent.name == uid:
                held.append((path, header))
    if len(held) != len(series["files"]):
        count = f"{len(held)} of {len(series['files'])}"
        raise SystemExit(f"{series['collection_id']}: {count} objects")
    for path, header in held:
        if path.stem != instance_uuid(header.SOPInstanceUID):
            raise SystemExit(f"{path}: not the uuid of its SOPInstanceUID")
    held.sort(key=lambda item: item[0].name)
    return held[0][0].parent.name, held


def text(header: pydicom.Dataset, keyword: str) -> str | None:
    """Give a header value as the index does: text, or null."""
    value = header.get(keyword)
    return None if value in (None, "") else str(value)


def date(value: str | None) -> str | None:
    """Give a DICOM date (PS3.5 6.2, DA) as the index does: YYYY-MM-DD."""
    return f"{value[:4]}-{value[4:6]}-{value[6:8]}" if value else None


def index_row(
    spec: dict[str, Any], series: dict[str, Any], uid: str, held: list[Any]
) -> dict[str, Any]:
    """Make the idc_index row of a series from its first header."""
    header = held[0][1]
    size = sum(path.stat().st_size for path, _ in held)
    source = next(
        c["source"]
        for c in spec["collections"]
        if c["collection_id"] == series["collection_id"]
    )
    first = min(
        other["first_release"]
        for other in spec["series"]
        if set(other["files"]) & set(series["files"])
    )
    syntax = UID(header.file_meta.TransferSyntaxUID)
    return {
        **{keyword: text(header, keyword) for keyword in HEADER},
        "collection_id": series["collection_id"],
        "StudyDate": date(text(header, "StudyDate")),
        "SeriesDate": date(text(header, "SeriesDate")),
        "SeriesNumber": text(header, "SeriesNumber"),
        "SOPClassUID": text(header, "SOPClassUID"),
        "sop_class_name": UID(header.SOPClassUID).name,
        "TransferSyntaxUID": str(syntax),
        "transfer_syntax_name": syntax.name,
        "PhotometricInterpretation": text(header, "PhotometricInterpretation"),
        "PixelRepresentation": text(header, "PixelRepresentation"),
        "instanceCount": len(held),
        "license_short_name": spec["sources"][source]["license"],
        "series_init_idc_version": first,
        "series_revised_idc_version": series["first_release"],
        "aws_bucket": spec["aws_bucket"],
        "crdc_series_uuid": uid,
        "series_aws_url": f"s3://{spec['aws_bucket']}/{uid}/*",
        "series_size_MB": size / 1e6,
    }


def prior_row(row: dict[str, Any], series: dict[str, Any]) -> dict[str, Any]:
    """Make the prior_versions_index row of a series that is gone."""
    shared = {name: row[name] for name in PRIOR.names if name in row}
    return {
        **shared,
        "series_size_MB": round(row["series_size_MB"], 2),
        "gcs_bucket": row["aws_bucket"],
        "min_idc_version": series["first_release"],
        "max_idc_version": series["last_release"],
    }


def collection_row(
    spec: dict[str, Any], collection: dict[str, Any], rows: list[dict[str, Any]]
) -> dict[str, Any]:
    """Make the collections_index row of a collection from those of its series."""
    modalities = ", ".join(sorted({row["Modality"] for row in rows}))
    source = spec["sources"][collection["source"]]
    long_name, url = LICENSES[source["license"]]
    described = {
        "source_id": collection["collection_id"],
        "source_title": source["title"],
        "source_type": "original_data",
        "source_doi": None,
        "source_url": source["repository"],
        "modalities": modalities,
        "license": {
            "license_url": url,
            "license_long_name": long_name,
            "license_short_name": source["license"],
        },
        "citation": f"{source['authors']}. {source['title']}. {source['repository']}, "
        f"commit {source['commit']}.",
        "Access": "Public",
        "ImageTypes": modalities,
    }
    return {
        **{name: collection[name] for name in COLLECTIONS.names if name in collection},
        "subjects": len({row["PatientID"] for row in rows}),
        "sources": [described],
        "status": "Complete",
        "updated": spec["releases"][-1]["date"],
    }


def write_tables(spec: dict[str, Any]) -> None:
    """Write every table of the sample."""
    by_digest = objects()
    newest = spec["releases"][-1]["idc_version"]
    current, prior = [], []
    owned: dict[str, list[dict[str, Any]]] = {}
    stray = {path for found in by_digest.values() for path, _ in found}
    for series in spec["series"]:
        uid, held = members(series, by_digest)
        row = index_row(spec, series, uid, held)
        stray -= {path for path, _ in held}
        owned.setdefault(series["collection_id"], []).append(row)
        if series["last_release"] == newest:
            current.append(row)
        else:
            prior.append(prior_row(row, series))
    if stray:
        raise SystemExit(f"in no series: {', '.join(map(str, sorted(stray)))}")
    order = ("collection_id", "PatientID", "StudyInstanceUID", "SeriesInstanceUID")
    for rows in (current, prior):
        rows.sort(key=lambda row: [row[name] or "" for name in order])
    collections = [
        collection_row(spec, collection, owned[collection["collection_id"]])
        for collection in spec["collections"]
    ]
    versions = [
        {"idc_version": r["idc_version"], "version_timestamp": r["date"]}
        for r in spec["releases"]
    ]
    folder = SAMPLE / "tables"
    folder.mkdir(exist_ok=True)
    for name, schema, rows in (
        ("idc_index", INDEX, current),
        ("prior_versions_index", PRIOR, prior),
        ("collections_index", COLLECTIONS, collections),
        ("analysis_results_index", ANALYSES, []),
        ("version_metadata_index", VERSIONS, versions),
    ):
        table = pa.Table.from_pylist(rows, schema=schema)
        pq.write_table(table, folder / f"{name}.parquet", compression="zstd")


def write_licenses(spec: dict[str, Any]) -> None:
    """Write where each object comes from, and the licence it is under."""
    lines = [
        "# Sources and licences of the sample",
        "",
        (
            "The DICOM files in `bucket/` are unaltered files of public repositories. "
            "A file is named here by its path in its repository, and by the SHA-256 of "
            "its bytes."
        ),
        "",
    ]
    for key, source in spec["sources"].items():
        owned = [c["collection_id"] for c in spec["collections"] if c["source"] == key]
        lines += [
            f"## {source['title']}",
            "",
            f"- repository: <{source['repository']}>, commit `{source['commit']}`",
            f"- licence: {source['license']}",
            f"- collections of the sample: {', '.join(owned)}",
            f"- {source['remark']}",
            "",
            "| file | SHA-256 |",
            "|---|---|",
        ]
        files = {
            path: digest
            for series in spec["series"]
            if series["collection_id"] in owned
            for path, digest in series["files"].items()
        }
        lines += [f"| `{path}` | `{digest}` |" for path, digest in files.items()]
        notice = (TOOLS / "sample_notices" / f"{key}.txt").read_text("utf-8").strip()
        lines += ["", "```text", notice, "```", ""]
    (SAMPLE / "LICENSES.md").write_text("\n".join(lines), encoding="utf-8")


def main(arguments: list[str]) -> None:
    """Build the sample."""
    spec = json.loads((TOOLS / "sample_sources.json").read_text("utf-8"))
    if arguments:
        fill_bucket(spec, Path(arguments[0]))
    write_tables(spec)
    write_licenses(spec)


if __name__ == "__main__":
    main(sys.argv[1:])
