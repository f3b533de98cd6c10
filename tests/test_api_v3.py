"""Bodies of API v3: terms and ranges become a selection, or are refused."""

from __future__ import annotations

import datetime as dt
import json

import pytest
from api_release import write_tables
from hypothesis import given
from hypothesis import strategies as st

from intake_idc import open_cohort, open_idc
from intake_idc.api import v3
from intake_idc.errors import BadBody, EmptySelection, RequestError, UnknownValue
from intake_idc.release import open_release
from intake_idc.selection import Selection

EVERYTHING = Selection()


@pytest.fixture(scope="module")
def tables(tmp_path_factory):
    return write_tables(tmp_path_factory.mktemp("tables"))


FILTERS = {
    "terms": {"collection_id": ["tcga_luad", "tcga_kirc"], "Modality": ["CT"]},
    "ranges": {
        "instanceCount": {"gte": 1, "lte": 2},
        "StudyDate": {"gte": "2002-01-31"},
    },
}


def test_terms_and_ranges_become_conditions():
    assert v3.read(FILTERS).to_dict() == {
        "where": [
            {"column": "Modality", "is": ["CT"]},
            {"column": "collection_id", "is": ["tcga_luad", "tcga_kirc"]},
        ],
        "sql": [
            "TRY_CAST(\"StudyDate\" AS DATE) >= DATE '2002-01-31'",
            '"instanceCount" >= 1',
            '"instanceCount" <= 2',
        ],
    }


@pytest.mark.parametrize(
    "body",
    [
        FILTERS,
        {"filters": FILTERS},
        {"filters": FILTERS, "page": 0, "page_size": 100, "include_rows": True},
        {"filters": FILTERS, "source": "gcs", "limit": None},
        {"filters": FILTERS, "citation_format": "apa", "idc_version": 25},
        {**FILTERS, "idc_version": "v25"},
    ],
    ids=["bare", "under filters", "manifest", "text", "citations", "pinned"],
)
def test_a_filter_is_taken_bare_and_under_filters(tables, body):
    assert v3.read(body) == v3.read(FILTERS)
    assert open_cohort(json.dumps(body), tables=tables).keys() == ["1.2.2.3"]


def test_every_attribute_of_the_service_is_a_column_of_the_index():
    assert (len(v3.TERMS), len(v3.RANGES)) == (13, 6)
    assert {*v3.TERMS, *v3.RANGES} <= set(open_release(25).columns)


def test_terms_are_exact_and_count_upper_and_lower_case(tables):
    with pytest.raises(UnknownValue, match="'CT'"):
        open_cohort({"terms": {"Modality": ["ct"]}}, tables=tables).keys()
    with pytest.raises(UnknownValue, match="C%"):
        open_cohort({"terms": {"Modality": ["C%"]}}, tables=tables).keys()


REFUSED = {
    "nothing": ({}, "none"),
    "no mapping": ([FILTERS], "'terms' or 'ranges'"),
    "a filter without a shape": ({"Modality": ["CT"]}, "'Modality'"),
    "filters of v2": ({"filters": {"Modality": ["CT"]}}, "'filters'"),
    "no filters": ({"filters": {}}, "'filters'"),
    "filters twice": ({"filters": FILTERS, **FILTERS}, "not both"),
    "a key beside": ({**FILTERS, "where": "x"}, "'where'"),
    "a key among": ({"filters": {**FILTERS, "page": 1}}, "'page'"),
    "terms as a list": ({"terms": ["CT"]}, "'terms' maps"),
    "ranges as text": ({"ranges": "x"}, "'ranges' maps"),
    "one term": ({"terms": {"Modality": "CT"}}, "are a list"),
    "no term": ({"terms": {"Modality": []}}, "are a list"),
    "null for a term": ({"terms": {"Modality": [None]}}, "is text"),
    "a number for a term": ({"terms": {"Modality": [3]}}, "is text"),
    "half a character": ({"terms": {"Modality": ["\ud800"]}}, "is text"),
    "an unknown term": ({"terms": {"modality": ["CT"]}}, "did you mean 'Modality'"),
    "a term of the index": ({"terms": {"SeriesDescription": ["x"]}}, "no 'Series"),
    "a range as a term": ({"terms": {"StudyDate": ["x"]}}, "one of the ranges"),
    "a term as a range": ({"ranges": {"Modality": {"gte": "C"}}}, "one of the terms"),
    "no bound": ({"ranges": {"instanceCount": {}}}, "'gte', 'lte'"),
    "another bound": ({"ranges": {"instanceCount": {"gt": 1}}}, "'gte', 'lte'"),
    "a bound alone": ({"ranges": {"instanceCount": 3}}, "'gte', 'lte'"),
    "text for a number": ({"ranges": {"instanceCount": {"gte": "3"}}}, "is a number"),
    "truth": ({"ranges": {"instanceCount": {"gte": True}}}, "is a number"),
    "infinity": ({"ranges": {"series_size_MB": {"lte": 1e999}}}, "is a number"),
    "no day": ({"ranges": {"StudyDate": {"gte": "2001-02-30"}}}, "is a day"),
    "a number for a day": ({"ranges": {"SeriesDate": {"gte": 2001}}}, "is a day"),
}


@pytest.mark.parametrize(("body", "said"), REFUSED.values(), ids=REFUSED)
def test_a_wrong_shape_is_refused_and_never_all_of_idc(body, said):
    with pytest.raises(BadBody, match=said) as refused:
        v3.read(body)
    assert isinstance(refused.value, RequestError)


def test_empty_terms_are_all_of_idc_only_if_that_is_said(tables):
    cohort = open_cohort({"terms": {}, "ranges": {}}, tables=tables)
    with pytest.raises(EmptySelection, match=r"all\(\)"):
        cohort.urls()
    assert len(cohort.all().manifest()) == 8


def test_the_release_that_a_body_names_is_the_pin(tables):
    body = {"filters": {"terms": {"Modality": ["CT"]}}, "idc_version": "24"}
    cohort = open_cohort(body, tables=tables)
    assert (cohort.idc_version, cohort.at(25).idc_version) == (24, 25)
    assert open_cohort(body, idc_version=24, tables=tables) == cohort
    with pytest.raises(RequestError, match=r"release 24, and idc_version=25"):
        open_cohort(body, idc_version=25, tables=tables)
    for pin in ("newest", 24.5, True, [24]):
        with pytest.raises(BadBody, match="idc_version of a body"):
            open_cohort({**body, "idc_version": pin}, tables=tables)


days = st.dates(dt.date(1999, 1, 1), dt.date(2011, 1, 1)).map(str)
numbers = st.sampled_from([0, 1, 2, 3, 25, 0.0001, 2.5, 4000.0])


@st.composite
def some_filters(draw):
    def bounds(values):
        some = st.fixed_dictionaries({}, optional={"gte": values, "lte": values})
        return some.filter(bool)

    values = {
        "collection_id": ["tcga_luad", "tcga_kirc", "qin_dogs"],
        "Modality": ["CT", "MR", "SEG", "SM", "SR"],
        "Manufacturer": ["GE", "Ge_%", "Siemens", "ge"],
        "PatientSex": ["F"],
    }
    terms = {
        name: st.lists(st.sampled_from(known), min_size=1, unique=True)
        for name, known in values.items()
    }
    ranges = {
        name: bounds(days if name.endswith("Date") else numbers) for name in v3.RANGES
    }
    return {
        "terms": draw(st.fixed_dictionaries({}, optional=terms)),
        "ranges": draw(st.fixed_dictionaries({}, optional=ranges)),
    }


def naive(row, filters):
    for name, values in filters["terms"].items():
        if row[name] not in values:
            return False
    for name, bounds in filters["ranges"].items():
        value = row[name]
        if value is None or not (
            bounds.get("gte", value) <= value <= bounds.get("lte", value)
        ):
            return False
    return True


@given(some_filters())
def test_any_filters_keep_what_a_loop_keeps(tables, filters):
    rows = open_release(tables=tables).table(None, EVERYTHING).to_pylist()
    expected = [row["SeriesInstanceUID"] for row in rows if naive(row, filters)]
    assert open_cohort(filters, tables=tables).keys() == expected


def test_release_25_answers_as_a_search_does():
    body = {
        "terms": {"collection_id": ["rider_pilot"], "Modality": ["CT"]},
        "ranges": {"instanceCount": {"lte": 100}},
    }
    cohort = open_idc(25).search(collection_id="rider_pilot", Modality="CT")
    assert open_cohort(body).keys() == cohort.query("instanceCount <= 100").keys()
