"""Bodies of API v2: what they may hold, what they ask, what is answered.

The answers over the small release of `api_release` are written out by hand, and worked
out by a row-by-row evaluation in plain Python, which knows no SQL.
"""

from __future__ import annotations

import copy
import datetime as dt
import json
import math
import pickle
import re
import shutil
from decimal import Decimal

import pytest
from api_release import FACTS, OBJECTS, TABLES, write_export, write_tables
from hypothesis import given
from hypothesis import strategies as st

import intake_idc
from intake_idc import api, open_cohort, open_idc
from intake_idc.api import v2_body
from intake_idc.api.v2 import _taken_apart, _token, float_text
from intake_idc.errors import (
    BadBody,
    EmptySelection,
    MirrorError,
    RequestError,
    TableNotFound,
    UnknownValue,
)


@pytest.fixture(scope="module")
def tables(tmp_path_factory):
    return write_tables(tmp_path_factory.mktemp("tables"))


@pytest.fixture(scope="module")
def export(tmp_path_factory):
    return write_export(tmp_path_factory.mktemp("export"))


@pytest.fixture(scope="module")
def ask(tables, export):
    def asked(filters, fields=(), *, exported=True, **more):
        body = {"cohort_def": {"filters": filters}, "fields": list(fields), **more}
        place = export if exported else None
        return api.preview(body, tables=tables, export=place)

    return asked


def rows_of(answer):
    return answer["manifest"]["manifest_data"]


# A body.

GOOD = {
    "cohort_def": {
        "name": "mycohort",
        "description": "Example description",
        "filters": {
            "collection_id": ["TCGA-LUAD", "tcga_kirc"],
            "Modality": ["CT", "MR"],
            "Race": ["WHITE"],
            "AGE_at_diagnosis_BTW": [65, 75],
        },
    },
    "fields": ["Age_At_Diagnosis", "aws_bucket", "modality", "SliceThickness"],
    "counts": "True",
    "group_size": "false",
}


def test_there_are_61_attributes_157_filters_and_73_fields():
    attributes = v2_body.attributes().values()
    assert sum(a.items is not None for a in attributes) == 61
    assert len(v2_body._filters()) == 157
    assert sum(a.response is not None for a in attributes) == 73
    assert sum(a.response is not None and a.items is None for a in attributes) == 12


def test_names_are_taken_in_any_case_and_given_as_published():
    body = v2_body.read(GOOD)
    assert body.fields == (
        "age_at_diagnosis",
        "aws_bucket",
        "Modality",
        "SliceThickness",
    )
    assert body.filters_dict == {
        "collection_id": ["tcga_luad", "tcga_kirc"],
        "Modality": ["CT", "MR"],
        "race": ["WHITE"],
        "age_at_diagnosis_btw": [65, 75],
    }
    assert (body.counts, body.group_size, body.sql, body.page_size) == (
        True, False, False, 1000,
    )  # fmt: skip
    assert v2_body.read(body.to_dict()) == body
    assert pickle.loads(pickle.dumps(body)) == body


def changed(**parts):
    body = copy.deepcopy(GOOD)
    for key, value in parts.items():
        if value is ...:
            del body[key]
        else:
            body[key] = value
    return body


def filtered(**filters):
    return changed(cohort_def={"filters": filters})


def failed(message, rule, place):
    """The words of the service for a value that does not fit its schema."""
    name, *item = place.split()
    schema = f"['{name}'],['items']" if item else f"['{name}']"
    instance = f"['{name}'],[{item[0]}]" if item else f"['{name}']"
    where = f"in schema ['properties'],{schema} on instance {instance}"
    return f"{message}; Failed validating {rule} {where}"


NO_JSON = "The JSON provided in this request appears to be improperly formatted."
NO_COHORT = "'cohort_def' is required in the body"
NO_PAGE = "page_size value must be an integer"
NOTHING = (
    "If 'fields' is empty, then one or both of 'counts' and 'group_size' must be True"
)
HALF_A_YEAR = (
    "65.1 is not of type 'integer'; Failed validating type in schema ['properties'],"
    "['age_at_diagnosis_btw'],['items'] on instance ['age_at_diagnosis_btw'],[0]"
)
REFUSED = {
    "no object": ([GOOD], NO_JSON),
    "no cohort": (changed(cohort_def=...), NO_COHORT),
    "cohort in another case": ({"Cohort_def": {}, "fields": []}, NO_COHORT),
    "no fields": (changed(fields=...), "fields is required in the body"),
    "key in another case": (changed(Counts=True), "Counts is an invalid body key"),
    "unknown key": (changed(limit=3), "limit is an invalid body key"),
    "unknown cohort key": (
        changed(cohort_def={"Filters": {}}),
        "'Filters' is an invalid cohort_def key",
    ),
    "a count for a field": (changed(fields=["counts"]), "counts is not a valid field."),
    "unknown filter": (filtered(Colour=["red"]), "Colour is not a valid filter."),
    "a field that is no filter": (
        filtered(Program=["TCGA"]),
        "Program is not a valid filter.",
    ),
    "a range without its suffix": (
        filtered(SliceThickness=[1]),
        "SliceThickness is not a valid filter.",
    ),
    "a filter twice": (
        filtered(Modality=["CT"], modality=["MR"]),
        "modality is not a valid filter: Modality is there in two spellings.",
    ),
    "no fields and no counts": (changed(fields=[], counts=False), NOTHING),
    "page size as text": (changed(page_size="7"), NO_PAGE),
    "page size as truth": (changed(page_size=True), NO_PAGE),
    "no page": (changed(page_size=0), "0 is an invalid value for page_size"),
    "counts as a number": (changed(counts=1), "1 is an invalid value for counts"),
    "sql in capitals": (changed(sql="TRUE"), "TRUE is an invalid value for sql"),
    "null": (changed(group_size=None), "None is an invalid value for group_size"),
    "half a year": (filtered(age_at_diagnosis_btw=[65.1, 75]), HALF_A_YEAR),
    "text for a number": (
        filtered(bmi_gt=["20"]),
        failed("'20' is not of type 'number'", "type", "bmi_gt 0"),
    ),
    "truth for a number": (
        filtered(bmi_gt=[True]),
        failed("True is not of type 'number'", "type", "bmi_gt 0"),
    ),
    "not a number": (
        filtered(bmi_gt=[math.nan]),
        failed("nan is not of type 'number'", "type", "bmi_gt 0"),
    ),
    "number for a text": (
        filtered(Modality=["CT", 3]),
        failed("3 is not of type 'string'", "type", "Modality 1"),
    ),
    "no list": (
        filtered(Modality="CT"),
        failed("'CT' is not of type 'array'", "type", "Modality"),
    ),
    "an empty list": (
        filtered(Modality=[]),
        failed("[] should be non-empty", "minItems", "Modality"),
    ),
    "one end of two": (
        filtered(bmi_ebtwe=[1]),
        failed("[1] is too short", "minItems", "bmi_ebtwe"),
    ),
    "a number beyond 64 bits": (
        filtered(ObjectiveLensPower=[2**63]),
        "9223372036854775808 is an invalid value for ObjectiveLensPower",
    ),
    "a number that Python does not write": (
        filtered(bmi_lt=[10**5000]),
        "a number of that size is an invalid value for bmi_lt",
    ),
    "two values for one": (
        filtered(bmi_lt=[1, 2]),
        failed("[1, 2] is too long", "maxItems", "bmi_lt"),
    ),
}


@pytest.mark.parametrize(("body", "message"), REFUSED.values(), ids=REFUSED)
def test_a_body_is_refused_in_the_words_of_the_service(body, message):
    with pytest.raises(BadBody) as refused:
        api.preview(body)
    assert refused.value.to_dict() == {"code": 400, "message": message}
    assert isinstance(refused.value, RequestError)
    assert pickle.loads(pickle.dumps(refused.value)).code == 400


@pytest.mark.parametrize(
    "body",
    [
        changed(fields="Modality"),
        changed(fields=[None]),
        changed(cohort_def=[]),
        changed(cohort_def={"filters": []}),
        changed(cohort_def={"name": 3}),
        filtered(Modality=["\ud800"]),
    ],
    ids=str,
)
def test_what_the_service_failed_at_is_refused_too(body):
    with pytest.raises(BadBody):
        v2_body.read(body)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(
                [*v2_body.BODY_KEYS, *v2_body.COHORT_KEYS, "Modality", "x"]
            ),
            inner,
            max_size=4,
        )
    ),
    max_leaves=12,
)


@given(json_values)
def test_anything_is_read_or_refused(value):
    try:
        body = v2_body.read(value)
    except BadBody as error:
        assert error.message  # noqa: PT017
    else:
        assert v2_body.read(body.to_dict()) == body


# A plain-Python evaluation.

SUFFIXES = {
    "btw": lambda x, low, high: low < x < high,
    "ebtw": lambda x, low, high: low <= x < high,
    "btwe": lambda x, low, high: low < x <= high,
    "ebtwe": lambda x, low, high: low <= x <= high,
    "gt": lambda x, low: x > low,
    "gte": lambda x, low: x >= low,
    "lt": lambda x, high: x < high,
    "lte": lambda x, high: x <= high,
    "eq": lambda x, same: x == same,
}


def base_of(name):
    return name if name in FACTS else name.rpartition("_")[0]


def joined(names):
    """Rows of dicom_pivot beside those of each clinical table that is named."""
    rows = OBJECTS
    for table, clinical in TABLES.items():
        if not any(FACTS[name]["table"] == table for name in names):
            continue
        lacking = dict.fromkeys(n for n, f in FACTS.items() if f["table"] == table)
        both = []
        for row in rows:
            own = [r for r in clinical if r["case_barcode"] == row["PatientID"]]
            both += [row | lacking | r | {table: True} for r in own]
            both += [] if own else [row | lacking | {table: False}]
        rows = both
    return rows


def fulfils(row, name, values):
    base = base_of(name)
    found = row[base]
    if name != base:
        return found is not None and SUFFIXES[name.rpartition("_")[2]](found, *values)
    return any(is_value(found, value) for value in values)


def is_value(found, value):
    if value == "None" or found is None:
        return value == "None" and found is None
    if isinstance(value, int | float):
        return found == value
    found = found.isoformat() if isinstance(found, dt.date) else str(found)
    parts = map(re.escape, value.lower().split("%"))
    return re.fullmatch(".*".join(parts), found.lower(), re.DOTALL) is not None


def kept(row, filters):
    groups = {}
    for name, values in filters.items():
        base = base_of(name)
        table = groups.setdefault(FACTS[base]["table"], {})
        table[base] = table.get(base, False) or fulfils(row, name, values)
    return all(
        all(found.values()) or (table in TABLES and not row[table])
        for table, found in groups.items()
    )


LEVELS = {
    "SOPInstanceUID": {"SOPInstanceUID", "crdc_instance_uuid", "gcs_url", "aws_url"},
    "SeriesInstanceUID": {"SeriesInstanceUID", "crdc_series_uuid"},
    "StudyInstanceUID": {"StudyInstanceUID", "crdc_study_uuid"},
    "PatientID": {"PatientID"},
    "collection_id": {"collection_id"},
}
COUNTS = {
    "SOPInstanceUID": "instance_count",
    "SeriesInstanceUID": "series_count",
    "StudyInstanceUID": "study_count",
    "PatientID": "patient_count",
    "collection_id": "collection_count",
}


def counted_below(fields):
    below = []
    for key, names in LEVELS.items():
        if names & set(fields):
            return below
        below.append(key)
    return below


def naive(filters, fields, *, counts=False, group_size=False):
    """Evaluate a body row by row."""
    names = [*fields, *map(base_of, filters)]
    rows = [row for row in joined(names) if kept(row, filters)]
    by = [f for f in fields if f not in ("StudyDate", "StudyDescription")]
    groups = {} if by else {(): []}
    for row in rows:
        groups.setdefault(tuple(sortable(row[f]) for f in by), []).append(row)
    answers = []
    for group in groups.values():
        values = {f: grouped(f, group) for f in fields}
        shown = {f: as_json(f, value) for f, value in values.items()}
        for key in counted_below(fields) if counts else ():
            shown[COUNTS[key]] = len({r[key] for r in group} - {None})
        if group_size:
            sizes = {r["SOPInstanceUID"]: r["instance_size"] for r in group}
            shown["group_size"] = sum(sizes.values()) if sizes else None
        answers.append((tuple(sortable(v) for v in values.values()), shown))
    answers.sort(key=lambda pair: pair[0])
    return [shown for _, shown in answers]


def grouped(field, group):
    found = [row[field] for row in group if row[field] is not None]
    if field == "StudyDate":
        return min(found, default=None)
    if field == "StudyDescription":
        return ",".join(sorted(set(found))) if found else None
    return group[0][field]


def sortable(value):
    if value is None:
        return (0, "")
    return (1, "") if value != value else (2, value)  # noqa: PLR0124  (not a number)


def as_json(field, value):
    if value is None or FACTS[field]["response"] == "integer":
        return value
    if isinstance(value, dt.date):
        return value.isoformat()
    if isinstance(value, Decimal):
        return str(value)
    return "NaN" if value != value else str(value)  # noqa: PLR0124


texts = {
    name: sorted(
        {str(row.get(name)) for table in (OBJECTS, *TABLES.values()) for row in table}
        - {"None"}
    )
    for name, fact in FACTS.items()
}


@st.composite
def values_of(draw, name):
    found = texts[name] or ["x"]
    text = draw(st.sampled_from(found))
    form = draw(st.sampled_from(["same", "upper", "lower", "cut", "None", "other"]))
    if form == "cut":
        first, last = sorted(draw(st.tuples(*[st.integers(0, len(text))] * 2)))
        text = f"{text[:first]}%{text[last:]}"
    elif form == "other":
        text = draw(st.sampled_from(["", "%", "_", "a_b", "A%B", "\\", "'", "CT", "4"]))
    elif form == "None":
        text = "None"
    return (
        text.upper() if form == "upper" else text.lower() if form == "lower" else text
    )


@st.composite
def a_filter(draw):
    name = draw(st.sampled_from([n for n, f in FACTS.items() if "class" in f]))
    fact = FACTS[name]
    if not fact["class"].startswith("Ranged"):
        if fact["items"] == "number":
            return name, draw(st.lists(st.sampled_from([20, 40, 40.0]), min_size=1))
        values = draw(st.lists(values_of(name), min_size=1, max_size=3))
        if name == "collection_id":
            values = [v if v == "None" else v.lower() for v in values]
        return name, values
    suffix = draw(st.sampled_from(sorted(SUFFIXES)))
    whole = [0, 1, 5, 66, 70, 75, 1000, 2000]
    known = whole if fact["items"] == "integer" else [*whole, 0.5, 12.5, 20.5, 1e3]
    count = 2 if suffix.endswith(("btw", "btwe")) else 1
    return f"{name}_{suffix}", draw(
        st.lists(st.sampled_from(known), min_size=count, max_size=count)
    )


filter_sets = st.lists(a_filter(), max_size=4).map(dict)
field_lists = st.lists(
    st.sampled_from([n for n, f in FACTS.items() if "response" in f]),
    max_size=4,
    unique=True,
)


@given(filter_sets, field_lists, st.booleans(), st.booleans())
def test_any_body_is_answered_as_row_by_row(ask, filters, fields, counts, group_size):
    counts = counts or not (fields or group_size)
    more = {"counts": counts, "group_size": group_size}
    answer = ask(filters, fields, **more)
    expected = naive(filters, fields, **more)
    assert rows_of(answer) == expected
    assert answer["manifest"]["totalFound"] == len(expected)


ON_INDEX = [
    name
    for name, fact in FACTS.items()
    if fact.get("index", [""])[0] in ("idc_index", "collections_index")
]


@given(
    st.lists(a_filter().filter(lambda f: f[0] in ON_INDEX), max_size=3).map(dict),
    st.lists(st.sampled_from(ON_INDEX), min_size=1, max_size=3, unique=True),
)
def test_the_index_and_the_export_give_one_answer(ask, filters, fields):
    more = {"counts": True, "group_size": True}
    try:
        by_index = rows_of(ask(filters, fields, exported=False, **more))
    except TableNotFound as error:
        assert "an empty text" in str(error)  # noqa: PT017
        return
    # What every object has, and the index does not, asks for the export.
    by_export = ask({**filters, "SOPInstanceUID": ["%"]}, fields, **more)
    assert by_index == rows_of(by_export)


def never(name, value):
    """Whether no object has a value, which a question takes for a mistake."""
    return not any(is_value(row[name], value) for row in OBJECTS)


@given(filter_sets)
def test_a_cohort_is_the_series_with_an_object_that_is_kept(tables, export, filters):
    body = {"cohort_def": {"filters": filters}, "fields": ["PatientID"]}
    names = [*map(base_of, filters)]
    expected = {row["SeriesInstanceUID"] for row in joined(names) if kept(row, filters)}
    try:
        found = open_cohort(body, tables=tables, export=export).keys()
    except EmptySelection:
        assert not expected
        return
    except UnknownValue:
        assert any(
            name in FACTS and "%" not in str(value) and never(name, value)
            for name, values in filters.items()
            for value in values
        )
        return
    assert set(found) == expected
    assert len(found) == len(expected)


# By hand.

GRANULARITIES = {
    "instance": (
        ["SOPInstanceUID"],
        {"SOPInstanceUID": "1.2.1.1.0", "group_size": 100},
    ),
    "series": (
        ["SeriesInstanceUID"],
        {"SeriesInstanceUID": "1.2.1.1", "instance_count": 3, "group_size": 500},
    ),
    "study": (
        ["StudyInstanceUID"],
        {
            "StudyInstanceUID": "1.2.1",
            "series_count": 2,
            "instance_count": 4,
            "group_size": 2_500_500,
        },
    ),
    "patient": (
        ["PatientID"],
        {
            "PatientID": "TCGA-A",
            "study_count": 1,
            "series_count": 2,
            "instance_count": 4,
            "group_size": 2_500_500,
        },
    ),
    "collection": (
        ["collection_id"],
        {
            "collection_id": "tcga_kirc",
            "patient_count": 1,
            "study_count": 1,
            "series_count": 1,
            "instance_count": 1,
            "group_size": 50,
        },
    ),
    "version": (
        [],
        {
            "collection_count": 2,
            "patient_count": 3,
            "study_count": 3,
            "series_count": 4,
            "instance_count": 7,
            "group_size": 2_500_565,
        },
    ),
}


@pytest.mark.parametrize("level", GRANULARITIES)
def test_a_granularity_has_the_counts_of_what_is_below(ask, level):
    fields, first = GRANULARITIES[level]
    filters = {"collection_id": ["TCGA-LUAD", "tcga kirc"], "Modality": ["ct", "MR"]}
    answer = ask(filters, fields, counts=True, group_size=True)
    assert rows_of(answer)[0] == first
    assert v2_body.granularity(fields) == level


def test_the_lowest_level_that_is_named_is_the_granularity(ask):
    fields = ["collection_id", "PatientID", "crdc_study_uuid", "Modality"]
    row = rows_of(ask({"Modality": ["SEG"]}, fields, counts=True))[0]
    assert list(row) == [*fields, "series_count", "instance_count"]


def test_an_object_counts_once_however_many_segments_it_has(ask):
    row = rows_of(ask({"Modality": ["SEG"]}, counts=True, group_size=True))[0]
    assert (row["instance_count"], row["group_size"]) == (1, 900)
    # Two samples of one patient do not double his images.
    row = rows_of(ask({"sample_type": ["01", "10"], "Modality": ["MR"]},
                      counts=True, group_size=True))[0]  # fmt: skip
    assert (row["instance_count"], row["group_size"]) == (1, 2_500_000)


def test_btw_excludes_both_ends(ask):
    for suffix, ages in {
        "btw": [70], "ebtw": [66, 70], "btwe": [70, 75], "ebtwe": [66, 70, 75],
    }.items():  # fmt: skip
        filters = {f"age_at_diagnosis_{suffix}": [66, 75]}
        found = rows_of(ask(filters, ["age_at_diagnosis"]))
        assert [row["age_at_diagnosis"] for row in found] == [None, *ages]


def test_ranges_of_one_attribute_are_either_or(ask):
    filters = {"SliceThickness_lt": [1], "SliceThickness_gte": [1000]}
    found = rows_of(ask(filters, ["SliceThickness"]))
    assert found == [{"SliceThickness": "0.5"}, {"SliceThickness": "1000.090881"}]


def test_patients_without_clinical_data_pass_clinical_filters(ask):
    found = rows_of(ask({"race": ["white"]}, ["PatientID", "race"]))
    assert found == [
        {"PatientID": "TCGA-A", "race": "WHITE"},
        {"PatientID": "TCGA-D", "race": None},
        {"PatientID": "rex", "race": None},
    ]


def test_text_is_any_case_and_percent_any_text_in_each_value(ask):
    for values, found in {
        ("chest",): ["CHEST", "Chest"],
        ("äö", "kid%"): ["KIDNEY", "ÄÖ"],
        ("%e%",): ["CHEST", "Chest", "KIDNEY"],
        ("None",): [None],
        ("_hest",): [],
    }.items():
        rows = rows_of(ask({"BodyPartExamined": values}, ["BodyPartExamined"]))
        assert [row["BodyPartExamined"] for row in rows] == found


def test_null_comes_first_then_what_is_no_number(ask):
    found = rows_of(ask({"Modality": ["CT"]}, ["SliceThickness"]))
    shown = [row["SliceThickness"] for row in found]
    assert shown == [None, "NaN", "0.5", "5.0", "1000.090881"]


def test_dates_and_descriptions_of_a_group_are_made_one(ask):
    fields = ["collection_id", "StudyDescription", "StudyDate"]
    assert rows_of(ask({}, fields))[-1] == {
        "collection_id": "tcga_luad",
        "StudyDescription": "follow-up, second,thorax",
        "StudyDate": "2001-05-01",
    }


def test_whole_numbers_are_numbers_and_all_else_is_text_or_null(ask):
    fields = ["Modality", "max_TotalPixelMatrixRows", "min_PixelSpacing", "Volume"]
    assert rows_of(ask({"Modality": ["SM", "SR"]}, fields)) == [
        dict(zip(fields, ("SM", 2000, "0.25", None), strict=True)),
        dict(zip(fields, ("SR", None, None, "12.5"), strict=True)),
        dict(zip(fields, ("SR", None, None, "100"), strict=True)),
    ]


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (10.0, "10.0"), (0.0, "0.0"), (-0.5, "-0.5"), (1000.090881, "1000.090881"),
        (9999999.5, "9999999.5"), (1e7, "1.0E7"), (-12345678.9, "-1.23456789E7"),
        (0.001, "0.001"), (0.00001, "1.0E-5"), (1.5e-9, "1.5E-9"),
        (math.inf, "Infinity"), (-math.inf, "-Infinity"), (math.nan, "NaN"),
    ],
)  # fmt: skip
def test_a_float_is_written_as_bigquery_writes_it(value, text):
    assert float_text(value) == text


@given(st.floats(allow_nan=False, allow_infinity=False))
def test_the_text_of_a_float_is_that_float(value):
    assert float(float_text(value)) == value


def test_the_answer_has_the_published_shape(tables, export):
    """The example of the documentation, which had 626 rows in release 16."""
    fields = ["PatientID", "Modality", "SliceThickness", "age_at_diagnosis"]
    body = {**GOOD, "fields": fields, "sql": True, "page_size": 1000}
    answer = api.preview(body, tables=tables, export=export)
    sql = answer["cohort_def"].pop("sql")
    assert sql.startswith('SELECT "PatientID", "Modality"')
    assert answer == {
        "code": 200,
        "cohort_def": {
            "name": "mycohort",
            "description": "Example description",
            "filterSet": {
                "filters": {
                    "collection_id": ["tcga_luad", "tcga_kirc"],
                    "Modality": ["CT", "MR"],
                    "race": ["WHITE"],
                    "age_at_diagnosis_btw": [65, 75],
                },
                "idc_data_version": "25.0",
            },
        },
        "manifest": {
            "manifest_data": [
                row("TCGA-A", "CT", "0.5", 66, 1),
                row("TCGA-A", "CT", "5.0", 66, 2),
                row("TCGA-A", "MR", "10.0", 66, 1),
            ],
            "rowsReturned": 3,
            "totalFound": 3,
        },
        "next_page": "",
    }
    assert json.loads(json.dumps(answer)) == answer


def row(patient, modality, thickness, age, instances):
    return {
        "PatientID": patient,
        "Modality": modality,
        "SliceThickness": thickness,
        "age_at_diagnosis": age,
        "study_count": 1,
        "series_count": 1,
        "instance_count": instances,
    }


def test_the_sql_is_the_one_that_was_run(ask, tables):
    answer = ask({"Modality": ["C%"]}, ["PatientID"], exported=False, sql=True)
    release = intake_idc.open_release(tables=tables)
    columns = ["PatientID", "Modality", "StudyInstanceUID", "SeriesInstanceUID"]
    again = release.ask(answer["cohort_def"]["sql"], {"idc_index": columns})
    assert again.to_pylist() == rows_of(answer)


# Pages.


def test_pages_together_are_the_whole(ask):
    fields = ["SOPInstanceUID", "SliceThickness"]
    whole = rows_of(ask({}, fields))
    answer = ask({}, fields, page_size=4)
    pages = [answer]
    while pages[-1]["next_page"]:
        assert re.fullmatch(r"[\w-]+:local:[\w-]+", pages[-1]["next_page"])
        pages.append(api.next_page(pages[-1]["next_page"]))
        assert list(pages[-1]) == ["code", "manifest", "next_page"]
    assert [row for page in pages for row in rows_of(page)] == whole
    assert [page["manifest"]["rowsReturned"] for page in pages] == [4, 4, 4]
    assert {page["manifest"]["totalFound"] for page in pages} == {12}
    rest = api.next_page(answer["next_page"], 100)
    assert (rest["manifest"]["rowsReturned"], rest["next_page"]) == (8, "")


def test_a_token_that_is_none_or_was_changed_is_refused(ask):
    token = ask({}, ["SOPInstanceUID"], page_size=1)["next_page"]
    job, place, page = token.split(":")
    offset = page.replace("1-", "2-", 1)
    for bad in ("", "x", "a:b:c", f"{job}:US:{page}", f"{job}:{place}:{offset}",
                f"{job[:-4]}:{place}:{page}", f"{token}:", None):  # fmt: skip
        with pytest.raises(BadBody, match="Invalid next_page token"):
            api.next_page(bad)
    for size in ("7", 7.5, True):
        with pytest.raises(BadBody, match=r"^Invalid page_size$"):
            api.next_page(token, size)


def test_a_page_of_any_size_is_what_there_is(ask):
    answer = ask({}, ["SOPInstanceUID"], page_size=2**80)
    assert (answer["manifest"]["rowsReturned"], answer["next_page"]) == (12, "")
    token = ask({}, ["SOPInstanceUID"], page_size=5)["next_page"]
    assert api.next_page(token, 2**80)["manifest"]["rowsReturned"] == 7


def test_a_token_holds_no_secret_and_opens_an_export_alone(tables, export):
    body = {"cohort_def": {}, "fields": ["PatientID"], "page_size": 1}
    secret = {"mirror": "s3://here/there", "storage_options": {"secret": "word"}}
    with pytest.raises(MirrorError, match="secret"):
        api.preview(body, tables=tables, export=secret)
    plain = {"mirror": str(export)}
    token = api.preview(body, tables=tables, export=plain)["next_page"]
    question, start = _taken_apart(token)
    assert question["export"] == plain
    for place in ({**plain, "shell": "x"}, {**plain, "engine": 3}, secret):
        changed_ = _token({**question, "export": place}, start)
        with pytest.raises((BadBody, MirrorError)):
            api.next_page(changed_)


# Where it comes from.


@pytest.mark.parametrize(
    ("filters", "fields", "table", "said"),
    [
        ({"SliceThickness_gt": [1]}, ["Modality"], "dicom_pivot", "SliceThickness"),
        ({}, ["crdc_study_uuid"], "dicom_pivot", "crdc_study_uuid"),
        ({}, ["SegmentAlgorithmType"], "dicom_pivot", "of single segments"),
        ({}, ["Malignancy"], "dicom_pivot", "structured report"),
        ({}, ["ObjectiveLensPower"], "dicom_pivot", "Modality is SM"),
        ({"SeriesDescription": ["None"]}, ["Modality"], "dicom_pivot", "empty text"),
        ({"race": ["WHITE"]}, ["Modality"], "tcga_clinical_rel9", "idc_v4/"),
        ({}, ["sample_type"], "tcga_biospecimen_rel9", "idc_v4/"),
    ],
)
def test_what_the_index_does_not_say_names_the_table_and_the_way(
    ask, filters, fields, table, said
):
    with pytest.raises(TableNotFound) as lacking:
        ask(filters, fields, exported=False)
    assert lacking.value.details["table"] == table
    assert said in lacking.value.message
    assert "export=" in lacking.value.message


def test_slides_are_answered_by_the_index(ask):
    filters = {"Modality": ["sm"], "max_TotalPixelMatrixRows_gte": [2000]}
    fields = ["illuminationType", "min_PixelSpacing", "gcs_bucket", "CancerType"]
    assert rows_of(ask(filters, fields, exported=False)) == [
        {
            "illuminationType": "DCM:111744",
            "min_PixelSpacing": "0.25",
            "gcs_bucket": "idc-open-idc1",
            "CancerType": "Kidney Cancer",
        }
    ]


def test_clinical_tables_alone_are_enough_beside_the_index(tables, tmp_path):
    place = tmp_path / "export"
    write_export(place)
    shutil.rmtree(place / "bigquery_export" / "idc_v25")
    body = {
        "cohort_def": {"filters": {"race": ["ASIAN"], "collection_id": ["tcga_luad"]}},
        "fields": ["PatientID"],
        "counts": True,
        "group_size": True,
    }
    (found,) = rows_of(api.preview(body, tables=tables, export=place))
    assert (found["PatientID"], found["instance_count"], found["group_size"]) == (
        "TCGA-B", 2, 15,
    )  # fmt: skip
    # Later releases hold the same table once more.
    dataset = place / "bigquery_export"
    (dataset / "idc_v4").rename(dataset / "idc_v25")
    assert rows_of(api.preview(body, tables=tables, export=place)) == [found]
    shutil.rmtree(dataset / "idc_v25")
    with pytest.raises(TableNotFound, match="tcga_clinical_rel9"):
        api.preview(body, tables=tables, export=place)


def test_an_export_is_named_in_any_way(tables, export):
    body = {"cohort_def": {}, "fields": ["SOPInstanceUID"], "page_size": 5}
    answers = [
        api.preview(body, tables=tables, export=place)
        for place in (
            str(export),
            intake_idc.resolve_mirror(export),
            intake_idc.open_export(25, "dicom_pivot", mirror=export),
            export / "bigquery_export" / "idc_v25",
        )
    ]
    assert all(rows_of(answer) == rows_of(answers[0]) for answer in answers)
    for answer in answers:
        rest = api.next_page(answer["next_page"])
        assert rest["manifest"]["totalFound"] == 12


def test_an_export_of_a_release_that_lacks_the_table_says_so(tables, export):
    body = {"cohort_def": {}, "fields": ["SOPInstanceUID"]}
    with pytest.raises(TableNotFound, match="idc_v24"):
        api.preview(body, idc_version=24, tables=tables, export=export)


def test_early_releases_have_the_table_under_their_number(tables, export, tmp_path):
    place = tmp_path / "export"
    shutil.copytree(export, place)
    dataset = place / "bigquery_export"
    (dataset / "idc_v25").rename(dataset / "idc_v24")
    (dataset / "idc_v24" / "dicom_pivot").rename(
        dataset / "idc_v24" / "dicom_pivot_v24"
    )
    body = {"cohort_def": {}, "fields": [], "counts": True}
    answer = api.preview(body, idc_version=24, tables=tables, export=place)
    assert rows_of(answer)[0]["instance_count"] == 12


def test_objects_of_superseded_series_are_not_made_up(tables):
    """Release 24 had one series with other bytes, whose objects nobody counted."""
    body = {"cohort_def": {}, "fields": ["collection_id"], "counts": True}
    with pytest.raises(TableNotFound, match=r"instance_count .* 1 superseded series"):
        api.preview(body, idc_version=24, tables=tables)
    body["cohort_def"] = {"filters": {"collection_id": ["tcga_luad"]}}
    answer = api.preview(body, idc_version=24, tables=tables)
    assert rows_of(answer)[0]["instance_count"] == 6
    assert answer["cohort_def"]["filterSet"]["idc_data_version"] == "24.0"
    body = {"cohort_def": {}, "fields": ["CancerType"]}
    with pytest.raises(TableNotFound, match=r"CancerType .* of their own release"):
        api.preview(body, idc_version=24, tables=tables)


def test_attributes_of_withdrawn_series_are_not_made_up(tables):
    """Release 23 had a series that no row of the index lends its attributes."""

    def asked(filters, fields=("PatientID",)):
        body = {"cohort_def": {"filters": filters}, "fields": list(fields)}
        return rows_of(api.preview(body, idc_version=23, tables=tables))

    why = r"does not know it of 1 withdrawn series"
    for filters, fields, name in (
        ({"Manufacturer": ["GE"]}, ["PatientID"], "Manufacturer"),
        ({"Manufacturer": ["None"], "Modality": ["mr"]}, [], "Manufacturer"),
        ({"collection_id": ["%kirc"]}, ["StudyDate"], "StudyDate"),
    ):
        with pytest.raises(TableNotFound, match=why) as lacking:
            asked(filters, [*fields, "PatientID"])
        assert lacking.value.details["attributes"] == [name]
    filters = {"filters": {"Manufacturer": ["ge"]}}
    with pytest.raises(TableNotFound, match=why):
        open_cohort(filters, idc_version=23, tables=tables)
    with pytest.raises(TableNotFound, match=why):
        api.filter_values("Manufacturer", idc_version=23, tables=tables)
    # Where the other filters leave it out, nothing hangs on it.
    kept = {"Manufacturer": ["GE"], "Modality": ["CT"]}
    assert [row["PatientID"] for row in asked(kept)] == ["TCGA-A", "TCGA-B", "TCGA-C"]
    assert len(asked({"Modality": ["MR"]}, ["SeriesInstanceUID"])) == 2
    assert len(open_cohort({"filters": kept}, idc_version=23, tables=tables)) == 3


@pytest.mark.parametrize("name", ["license_short_name", "analysis_results_id"])
def test_what_was_renamed_since_is_not_taken_from_today(tables, name):
    """From 20 to 25, 12,338 licences changed, and every result had another name."""
    body = {"cohort_def": {}, "fields": [name]}
    assert rows_of(api.preview(body, tables=tables))
    with pytest.raises(TableNotFound, match=rf"{name} .* of their own release") as no:
        api.preview(body, idc_version=24, tables=tables)
    assert "name with tables= the index tables that release 24" in no.value.message
    filters = {"filters": {name: ["CC%"]}}
    with pytest.raises(TableNotFound, match=name):
        open_cohort(filters, idc_version=24, tables=tables)


def test_values_of_a_filter_are_listed(tables, export):
    places = {"tables": tables, "export": export}
    assert api.filter_values("MODALITY", **places) == {
        "values": ["CT", "MR", "SEG", "SM", "SR"]
    }
    assert api.filter_values("race", **places)["values"] == [None, "ASIAN", "WHITE"]
    assert api.filter_values("samplesperpixel", **places)["values"] == [None, "1", "3"]
    with pytest.raises(BadBody, match=r"^Invalid filter ID$"):
        api.filter_values("Program")
    kinds = "Categorical String or Categorical Number"
    with pytest.raises(
        BadBody, match=rf"^Filter data type is Ranged Number not {kinds}$"
    ):
        api.filter_values("bmi")


def test_many_values_are_asked_as_one_list(ask):
    values = [f"x{number}" for number in range(500)] + ["tcga-a", "rex"]
    found = rows_of(ask({"PatientID": values}, ["PatientID"], exported=False))
    assert [row["PatientID"] for row in found] == ["TCGA-A", "rex"]


def test_a_value_with_nul_or_quotes_selects_nothing_and_breaks_nothing(ask):
    for value in ("\0", "'; DROP TABLE idc_index; --", "a\0%"):
        assert rows_of(ask({"PatientID": [value]}, ["PatientID"])) == []


# The real release.


def test_release_25_answers_as_a_search_does():
    filters = {"collection_id": ["RIDER-Pilot"], "Modality": ["ct", "seg"]}
    body = {
        "cohort_def": {"filters": filters},
        "fields": ["crdc_series_uuid", "Modality"],
        "counts": True,
        "group_size": True,
    }
    answer = api.preview(body, idc_version=25)
    cohort = open_idc(25).search(collection_id="rider_pilot", Modality=["CT", "SEG"])
    assert answer["manifest"]["totalFound"] == len(cohort) == 372
    rows = rows_of(answer)
    assert sum(row["instance_count"] for row in rows) == cohort.counts()["instances"]
    assert sum(row["group_size"] for row in rows) == cohort.size
    uuids = [row["crdc_series_uuid"] for row in rows]
    assert set(uuids) == set(cohort.manifest().uuids)
    assert open_cohort(body).keys() == cohort.keys()
