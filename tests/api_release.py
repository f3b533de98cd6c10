"""A small release, told once as objects, and written as IDC publishes one.

`OBJECTS` are rows of ``dicom_pivot`` (a segmentation has one for each segment); from
them come the index tables of release 25, and its Parquet export. Release 24 had one
series with other bytes, and release 23 one more, which was withdrawn.
"""

from __future__ import annotations

import datetime as dt
import json
from decimal import Decimal
from importlib.resources import files
from pathlib import Path

import pyarrow as pa
from pyarrow import parquet as pq

NAN = float("nan")
FACTS = json.loads((files("intake_idc.facts") / "api_v2.json").read_text("utf-8"))[
    "attributes"
]
PIVOT = [name for name, fact in FACTS.items() if fact["table"] == "dicom_pivot"]

FLOATS = ("SliceThickness", "min_PixelSpacing")
WHOLE = (
    "max_TotalPixelMatrixColumns",
    "max_TotalPixelMatrixRows",
    "ObjectiveLensPower",
    "SamplesPerPixel",
    "SegmentNumber",
)
MEASURED = (
    "Apparent_Diffusion_Coefficient",
    "Diameter",
    "Sphericity_quant",
    "Surface_area_of_mesh",
    "Volume",
    "Volume_of_Mesh",
)
NUMBERS = pa.decimal128(38, 9)

COLLECTIONS = {
    # collection_id: cancer types, locations, species, program
    "tcga_luad": ("Lung Cancer", "Lung", "Human", "TCGA"),
    "tcga_kirc": ("Kidney Cancer", "Kidney", "Human", "TCGA"),
    "qin_dogs": ("Breast Cancer, Non-Cancer", "Breast", "Canine", "QIN"),
}
CT, SEG, SM = (f"1.2.840.10008.5.1.4.1.1.{tail}" for tail in ("2", "66.4", "77.1.6"))

SERIES = [
    # number, collection, patient, study, modality, then what else is not null
    (
        1,
        "tcga_luad",
        "TCGA-A",
        1,
        "CT",
        {
            "BodyPartExamined": "CHEST",
            "SeriesDescription": "100% dose",
            "Manufacturer": "GE",
            "SOPClassUID": CT,
            "StudyDescription": "thorax",
        },
    ),
    (
        2,
        "tcga_luad",
        "TCGA-A",
        1,
        "MR",
        {
            "SeriesDescription": "a_b",
            "Manufacturer": "Siemens",
            "SeriesNumber": "2",
            "StudyDescription": "thorax",
        },
    ),
    (
        3,
        "tcga_luad",
        "TCGA-B",
        2,
        "CT",
        {
            "BodyPartExamined": "Chest",
            "SeriesDescription": "axb",
            "Manufacturer": "ge",
            "SOPClassUID": CT,
            "StudyDescription": "follow-up, second",
        },
    ),
    (
        4,
        "tcga_kirc",
        "TCGA-C",
        3,
        "CT",
        {
            "BodyPartExamined": "KIDNEY",
            "Manufacturer": "GE",
            "SeriesNumber": "1",
            "SOPClassUID": CT,
        },
    ),
    (
        5,
        "tcga_kirc",
        "TCGA-C",
        3,
        "SEG",
        {
            "SeriesDescription": "line\nbreak",
            "SOPClassUID": SEG,
            "analysis_results_id": "nnu",
            "source_DOI": "10.1/seg",
            "license_short_name": "CC BY-NC 4.0",
        },
    ),
    (
        6,
        "tcga_kirc",
        "TCGA-D",
        4,
        "SM",
        {
            "SOPClassUID": SM,
            "min_PixelSpacing": 0.25,
            "ObjectiveLensPower": 40,
            "max_TotalPixelMatrixColumns": 1000,
            "max_TotalPixelMatrixRows": 2000,
            "illuminationType": "DCM:111744",
            "primaryAnatomicStructure": "SCT:64033007",
        },
    ),
    (
        7,
        "qin_dogs",
        "rex",
        5,
        "CT",
        {
            "BodyPartExamined": "ÄÖ",
            "Manufacturer": "Ge_%",
            "SOPClassUID": CT,
            "ManufacturerModelName": "back\\slash 'n' quote",
        },
    ),
    # One identifier of a patient in two collections.
    (8, "qin_dogs", "TCGA-A", 6, "SR", {"StudyDescription": "None"}),
]
STUDY_DATES = {
    1: dt.date(2001, 5, 1), 2: dt.date(2002, 1, 31), 3: None,
    4: dt.date(1999, 12, 31), 5: dt.date(2001, 5, 1), 6: dt.date(2010, 7, 4),
}  # fmt: skip
CONTENT = {
    # series: for each object its bytes and its rows, with what else is not null
    1: [(100, [{"SliceThickness": 0.5}]), (100, [{"SliceThickness": 5.0}]),
        (300, [{"SliceThickness": 5.0}])],
    2: [(2_500_000, [{"SliceThickness": 10.0, "SamplesPerPixel": 1}])],
    3: [(7, [{"SliceThickness": None}]), (8, [{"SliceThickness": NAN}])],
    4: [(50, [{"SliceThickness": 0.5, "SamplesPerPixel": 3}])],
    5: [(900, [
        {"SegmentNumber": 1, "SegmentAlgorithmType": "AUTOMATIC",
         "SegmentedPropertyTypeCodeSequence": "64033007"},
        {"SegmentNumber": 2, "SegmentAlgorithmType": "MANUAL",
         "SegmentedPropertyTypeCodeSequence": "108369006"},
        {"SegmentNumber": 3, "SegmentAlgorithmType": "AUTOMATIC"},
    ])],
    6: [(4_000_000_000, [{}]), (1, [{}])],
    7: [(60, [{"SliceThickness": 1000.090881}])],
    8: [(11, [{"Volume": Decimal("12.5"), "Malignancy": "4 out of 5"},
              {"Volume": Decimal(100), "Malignancy": "1 out of 5"}])],
}  # fmt: skip
CLINICAL = [
    {"case_barcode": "TCGA-A", "race": "WHITE", "age_at_diagnosis": 66, "bmi": 20.5},
    {"case_barcode": "TCGA-B", "race": "ASIAN", "age_at_diagnosis": 75, "bmi": None},
    {"case_barcode": "TCGA-C", "race": None, "age_at_diagnosis": 70, "bmi": 31.0},
    {"case_barcode": "TCGA-Z", "race": "WHITE", "age_at_diagnosis": 70, "bmi": 31.0},
]
BIOSPECIMENS = [
    {"case_barcode": "TCGA-A", "sample_type": "01", "project_short_name": "TCGA-LUAD"},
    {"case_barcode": "TCGA-A", "sample_type": "10", "project_short_name": "TCGA-LUAD"},
    {"case_barcode": "TCGA-C", "sample_type": "01", "project_short_name": "TCGA-KIRC"},
]
TABLES = {"tcga_clinical_rel9": CLINICAL, "tcga_biospecimen_rel9": BIOSPECIMENS}


def uuid(kind: str, *numbers: int) -> str:
    head = {"study": "5", "series": "a", "object": "0"}[kind]
    return f"{head * 8}-0000-4000-8000-" + "".join(f"{n:04d}" for n in numbers).zfill(
        12
    )


def objects():
    """Every row of dicom_pivot, as a dict of all its columns."""
    for number, collection, patient, study, modality, more in SERIES:
        cancer, location, species, program = COLLECTIONS[collection]
        for place, (size, rows) in enumerate(CONTENT[number]):
            instance = uuid("object", number, place)
            path = f"{uuid('series', number)}/{instance}.dcm"
            for row in rows:
                yield dict.fromkeys(PIVOT) | {
                    "collection_id": collection,
                    "PatientID": patient,
                    "StudyInstanceUID": f"1.2.{study}",
                    "SeriesInstanceUID": f"1.2.{study}.{number}",
                    "SOPInstanceUID": f"1.2.{study}.{number}.{place}",
                    "crdc_study_uuid": uuid("study", study),
                    "crdc_series_uuid": uuid("series", number),
                    "crdc_instance_uuid": instance,
                    "Modality": modality,
                    "StudyDate": STUDY_DATES[study],
                    "instance_size": size,
                    "aws_bucket": "idc-open-data-two",
                    "gcs_bucket": "idc-open-idc1",
                    "aws_url": f"s3://idc-open-data-two/{path}",
                    "gcs_url": f"gs://idc-open-idc1/{path}",
                    "CancerType": cancer,
                    "tcia_tumorLocation": location,
                    "tcia_species": species,
                    "Program": program,
                    "source_DOI": f"10.7937/{collection}",
                    "license_short_name": "CC BY 4.0",
                } | more | row  # fmt: skip


OBJECTS = list(objects())


def _type(name: str) -> pa.DataType:
    if name in FLOATS:
        return pa.float64()
    if name in WHOLE:
        return pa.int64()
    if name in MEASURED:
        return NUMBERS
    return pa.date32() if name == "StudyDate" else pa.string()


def _write(path: Path, rows, schema=None) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.Table.from_pylist(rows, schema=schema), path)


def index_rows():
    """The rows of the index: one for each series, as its query makes them."""
    renamed = {
        fact["index"][1]: name
        for name, fact in FACTS.items()
        if fact.get("index", [""])[0] == "idc_index" and name != "gcs_bucket"
    }
    for number, *_ in SERIES:
        uid = uuid("series", number)
        own = [row for row in OBJECTS if row["crdc_series_uuid"] == uid]
        sizes = {row["SOPInstanceUID"]: row["instance_size"] for row in own}
        day = own[0]["StudyDate"]
        yield {column: own[0][name] for column, name in renamed.items()} | {
            "StudyDate": None if day is None else day.isoformat(),
            "instanceCount": len(sizes),
            "series_size_MB": sum(sizes.values()) / 1e6,
            "PatientSex": "F" if number % 2 else None,
            "sop_class_name": "CT Image Storage"
            if own[0]["SOPClassUID"] == CT
            else None,
            "SeriesDate": None if day is None else day.isoformat(),
            "series_init_idc_version": 1,
            "series_revised_idc_version": 25 if number == 4 else 1,
            "series_aws_url": f"s3://idc-open-data-two/{uid}/*",
        }


PRIOR = {
    "collection_id": "tcga_kirc",
    "PatientID": "TCGA-C",
    "SeriesInstanceUID": "1.2.3.4",
    "StudyInstanceUID": "1.2.3",
    "Modality": "CT",
    "gcs_bucket": "idc-open-idc1",
    "crdc_series_uuid": uuid("series", 44),
    "series_size_MB": 0.00004,
    "series_aws_url": f"s3://idc-open-data-two/{uuid('series', 44)}/*",
    "aws_bucket": "idc-open-data-two",
    "min_idc_version": 1,
    "max_idc_version": 24,
}

WITHDRAWN = PRIOR | {
    "SeriesInstanceUID": "1.2.3.9",
    "Modality": "MR",
    "crdc_series_uuid": uuid("series", 9),
    "series_aws_url": f"s3://idc-open-data-two/{uuid('series', 9)}/*",
    "max_idc_version": 23,
}


def write_tables(folder: Path) -> Path:
    """Write the index tables of release 25."""
    texts = ("StudyDate", "SeriesDate", "sop_class_name", "PatientSex")
    rows = list(index_rows())
    schema = pa.schema(
        [
            (name, pa.string() if isinstance(value, str) or value is None
             or name in texts else pa.array([value]).type)
            for name, value in rows[0].items()
        ]
    )  # fmt: skip
    _write(folder / "idc_index.parquet", rows, schema)
    _write(folder / "prior_versions_index.parquet", [PRIOR, WITHDRAWN])
    names = ("cancer_types", "tumor_locations", "species", "program_id")
    _write(
        folder / "collections_index.parquet",
        [
            {"collection_id": collection} | dict(zip(names, values, strict=True))
            for collection, values in COLLECTIONS.items()
        ],
    )
    slides = {
        fact["index"][1]: name
        for name, fact in FACTS.items()
        if fact.get("index", [""])[0] == "sm_index"
    }
    _write(
        folder / "sm_index.parquet",
        [
            {"SeriesInstanceUID": row["SeriesInstanceUID"]}
            | {column: row[name] for column, name in slides.items()}
            for row in OBJECTS
            if row["SOPInstanceUID"] == "1.2.4.6.0"
        ],
    )
    versions = [
        {"idc_version": number, "version_timestamp": f"20{number}-01-01"}
        for number in range(1, 26)
    ]
    _write(folder / "version_metadata_index.parquet", versions)
    return folder


def write_export(root: Path) -> Path:
    """Write dicom_pivot of release 25, and the clinical tables of release 4."""
    schema = pa.schema([(name, _type(name)) for name in PIVOT])
    # Some releases export whole numbers as text.
    rows = [row | {"instance_size": str(row["instance_size"])} for row in OBJECTS]
    folder = root / "bigquery_export" / "idc_v25" / "dicom_pivot"
    for number, part in enumerate((rows[:5], rows[5:])):
        _write(folder / f"{number:012d}.parquet", part, schema)
    for name, table in TABLES.items():
        folder = root / "bigquery_export" / "idc_v4" / name
        lacking = dict.fromkeys(n for n, f in FACTS.items() if f["table"] == name)
        whole = {"age_at_diagnosis": pa.int64(), "bmi": pa.float64()}
        columns = ["case_barcode", *lacking]
        _write(
            folder / "000000000000.parquet",
            [lacking | row for row in table],
            pa.schema([(n, whole.get(n, pa.string())) for n in columns]),
        )
    return root
