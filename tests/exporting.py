"""A Parquet export as IDC publishes one: real column names and types, made-up rows.

The columns are the leading block of `dicom_all`, some keywords of DICOM, and some
sequences, with the types that BigQuery's schema gives them.
"""

from __future__ import annotations

import datetime as dt
import hashlib
import random
import uuid
from pathlib import Path

import pyarrow as pa
from pyarrow import parquet as pq

CODE = pa.struct(
    [
        ("CodeValue", pa.string()),
        ("CodingSchemeDesignator", pa.string()),
        ("CodeMeaning", pa.string()),
    ]
)
REFERENCED = pa.struct(
    [
        ("SeriesInstanceUID", pa.string()),
        (
            "ReferencedInstanceSequence",
            pa.list_(pa.struct([("ReferencedSOPInstanceUID", pa.string())])),
        ),
    ]
)
OTHER = pa.struct([("Tag", pa.string()), ("Data", pa.list_(pa.string()))])

TEXTS = [
    "collection_hash",
    "collection_init_idc_version",
    "collection_revised_idc_version",
    "collection_tumorLocation",
    "collection_species",
    "collection_cancerType",
    "access",
    "idc_case_id",
    "patient_hash",
    "patient_init_idc_version",
    "patient_revised_idc_version",
    "crdc_study_uuid",
    "study_hash",
    "study_init_idc_version",
    "study_revised_idc_version",
    "crdc_series_uuid",
    "series_gcs_url",
    "series_aws_url",
    "series_hash",
    "series_init_idc_version",
    "series_revised_idc_version",
    "crdc_instance_uuid",
    "instance_hash",
    "instance_size",
    "instance_init_idc_version",
    "instance_revised_idc_version",
    "gcs_url",
    "gcs_bucket",
    "aws_url",
    "aws_bucket",
    "Source_DOI",
    "Source_URL",
    "Versioned_Source_DOI",
    "analysis_result_id",
    "license_url",
    "license_long_name",
    "license_short_name",
    "TransferSyntaxUID",
    "SOPClassUID",
    "SOPInstanceUID",
    "PatientID",
    "StudyInstanceUID",
    "SeriesInstanceUID",
    "Modality",
    "SeriesDescription",
    "BodyPartExamined",
]

SCHEMA = pa.schema(
    [
        ("collection_name", pa.string()),
        ("collection_id", pa.string()),
        ("collection_timestamp", pa.timestamp("us")),
        *((name, pa.string()) for name in TEXTS),
        ("Rows", pa.int64()),
        ("InstanceNumber", pa.int64()),
        ("SliceThickness", pa.float64()),
        ("StudyDate", pa.date32()),
        ("StudyTime", pa.time64("us")),
        ("AcquisitionDateTime", pa.timestamp("us", tz="UTC")),
        ("ImageType", pa.list_(pa.string())),
        ("ProcedureCodeSequence", pa.list_(CODE)),
        ("ReferencedSeriesSequence", pa.list_(REFERENCED)),
        ("OtherElements", pa.list_(OTHER)),
    ]
)

COLLECTIONS = [f"made_up_{i:02d}" for i in range(30)]


def md5(data: bytes) -> str:
    return hashlib.md5(data, usedforsecurity=False).hexdigest()


def named(*parts):
    return str(uuid.uuid5(uuid.NAMESPACE_URL, "/".join(map(str, parts))))


def made_up_rows(number, files, count):
    """Rows of one file: a run of collections, as a table clustered by them has it."""
    draw = random.Random(number)  # noqa: S311  (the same rows each time)
    rows = []
    for i in range(count):
        place = (number * count + i) * len(COLLECTIONS) // (files * count)
        collection = COLLECTIONS[place]
        patient = f"P{(number * count + i) // 16}"
        series = named(collection, patient, i // 4)
        instance = named(series, number, i)
        rows.append(
            {
                "collection_name": collection.upper(),
                "collection_id": collection,
                "collection_timestamp": dt.datetime(  # noqa: DTZ001  (DATETIME has none)
                    2024, 1, 1 + number % 28
                ),
                "collection_revised_idc_version": str(1 + number % 20),
                "series_init_idc_version": str(1 + i % 20),
                "instance_init_idc_version": str(1 + i % 20),
                "patient_init_idc_version": None,
                "crdc_study_uuid": named("study", patient),
                "crdc_series_uuid": series,
                "crdc_instance_uuid": instance,
                "instance_hash": md5(instance.encode()),
                "instance_size": str(draw.randrange(10**6)),
                "series_aws_url": f"s3://idc-open-data/{series}/",
                "aws_url": f"s3://idc-open-data/{series}/{instance}.dcm",
                "aws_bucket": "idc-open-data",
                "Source_DOI": f"10.7937/{place}",
                "license_short_name": "CC BY 4.0",
                "SOPInstanceUID": f"1.2.3.{number}.{i}",
                "PatientID": patient,
                "StudyInstanceUID": f"1.2.{patient[1:]}",
                "SeriesInstanceUID": f"1.2.{patient[1:]}.{i // 4}",
                "Modality": draw.choice(["CT", "MR", "SM", None]),
                "SeriesDescription": draw.choice(["scout", "axial", "ÄÖ", ""]),
                "Rows": draw.choice([256, 512, None]),
                "InstanceNumber": i,
                "SliceThickness": draw.choice([0.5, 5.0, float("nan"), None]),
                "StudyDate": dt.date(2000 + number % 20, 1, 1 + i % 28),
                "StudyTime": dt.time(i % 24),
                "AcquisitionDateTime": dt.datetime(
                    2020, 1, 1, i % 24, tzinfo=dt.timezone.utc
                ),
                "ImageType": ["ORIGINAL", "PRIMARY"][: i % 3],
                "ProcedureCodeSequence": [
                    {"CodeValue": str(n), "CodingSchemeDesignator": "SCT"}
                    for n in range(i % 3)
                ],
                "ReferencedSeriesSequence": [
                    {
                        "SeriesInstanceUID": f"9.{i}",
                        "ReferencedInstanceSequence": [
                            {"ReferencedSOPInstanceUID": f"9.{i}.{n}"} for n in range(2)
                        ],
                    }
                ],
                # As wide as private tags are: none of it is to be read in passing.
                "OtherElements": [
                    {"Tag": "Tag_00091001", "Data": [draw.randbytes(60).hex()]}
                    for _ in range(20)
                ],
            }
        )
    return rows


def write(folder: Path, number: int, rows, schema=SCHEMA, **options) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{number:012d}.parquet"
    table = pa.Table.from_pylist(rows, schema=schema)
    pq.write_table(table, path, compression="zstd", **options)
    return path


def drifted(schema):
    """The same columns as another release exports them."""
    fields = []
    for field in schema:
        kind = field.type
        if field.name == "instance_size" or field.name.endswith("_idc_version"):
            kind = pa.int64()
        name = "source_DOI" if field.name == "Source_DOI" else field.name
        fields.append(pa.field(name, kind))
    return pa.schema(fields)


def write_drifted(folder: Path, number: int, rows) -> Path:
    whole = ("instance_size",)
    rows = [
        {
            ("source_DOI" if name == "Source_DOI" else name): (
                int(value)
                if value is not None
                and (name in whole or name.endswith("_idc_version"))
                else value
            )
            for name, value in row.items()
        }
        for row in rows
    ]
    return write(folder, number, rows, drifted(SCHEMA))


def write_export(root: Path, files: int = 210, count: int = 40) -> Path:
    """Write `dicom_all` of release 20, every seventh file as another release would."""
    folder = root / "bigquery_export" / "idc_v20" / "dicom_all"
    for number in range(files):
        rows = made_up_rows(number, files, count)
        if number % 7 == 6:
            write_drifted(folder, number, rows)
        else:
            write(folder, number, rows, row_group_size=count // 2)
    return folder


def sample_rows(bucket: Path):
    """Rows of the real objects of the sample: their names, sizes and MD5s."""
    import pydicom

    rows = []
    for series in sorted(bucket.iterdir()):
        paths = sorted(series.glob("*.dcm"))
        hashes = [md5(path.read_bytes()) for path in paths]
        for path, digest in zip(paths, hashes, strict=True):
            rows.append(
                {
                    "collection_id": "sample",
                    "crdc_series_uuid": series.name,
                    "crdc_instance_uuid": path.stem,
                    "SOPInstanceUID": str(pydicom.dcmread(path).SOPInstanceUID),
                    "instance_size": str(path.stat().st_size),
                    "instance_hash": digest,
                    "series_hash": md5("".join(sorted(hashes)).encode()),
                    "aws_bucket": "intake-idc-sample",
                }
            )
    return rows
