"""Licences and citations: every source is named, nothing is made up or lost."""

from __future__ import annotations

import json
import pickle
import re
import shutil
import threading
from dataclasses import replace
from pathlib import Path

import intake
import pyarrow as pa
import pytest
import yaml
from dask.base import tokenize
from hypothesis import given
from hypothesis import strategies as st
from pyarrow import parquet

from intake_idc import open_idc, open_manifest, sample_path
from intake_idc.citations import (
    IDC_PAPER,
    MANIFEST_LINE,
    Citations,
    Group,
    Name,
    allows_commercial_use,
    clean,
    collect,
    conflicting_groups,
    dois,
    licences_differ,
    read_stated,
)
from intake_idc.errors import (
    EmptySelection,
    PlanError,
    RequestError,
    TableNotFound,
    UnknownColumn,
)
from intake_idc.manifest import Manifest
from intake_idc.readers import IDCSelection
from intake_idc.release import FixedRows
from intake_idc.selection import Selection

IDC = open_idc(25)
WHOLE = IDC.all().citations()
SAMPLE = open_idc(2, tables="sample")
CT = SAMPLE.search(Modality="CT")
MR = SAMPLE.search(Modality="MR")

BY = "https://creativecommons.org/licenses/by/4.0/"
NLM = "National Library of Medicine Terms and Conditions; May 21, 2019"


# Licences.


@pytest.mark.parametrize(
    ("statement", "allowed"),
    [
        ("CC BY 4.0", True),
        ("CC BY 3.0", True),
        ("cc-by-4.0", True),
        ("CC BY-SA 4.0", True),
        ("CC BY", True),
        ("CC0", True),
        ("MIT", True),
        ("BSD-2-Clause", True),
        ("Apache-2.0", True),
        (BY, True),
        ("Creative Commons Attribution 4.0 International License", True),
        ("CC BY-NC 4.0", False),
        ("CC BY-NC 3.0", False),
        ("CC BY-NC-SA 4.0", False),
        ("Creative Commons Attribution-NonCommercial 3.0 Unported License", False),
        ("https://creativecommons.org/licenses/by-nc/3.0/", False),
        (NLM, False),
        ("CC BY 4.0; images NC", False),
        ("not CC BY 4.0", False),
        ("", False),
        (None, False),
    ],
)
def test_commercial_use_is_allowed_only_by_what_is_surely_such_a_licence(
    statement, allowed
):
    assert allows_commercial_use(statement) is allowed


@pytest.mark.parametrize(
    ("statements", "differ"),
    [
        (("CC BY 4.0", "CC BY 4.0", None, BY), False),
        (("CC BY 4.0", "Creative Commons Attribution 4.0 International", BY), False),
        (("CC BY-NC 3.0", "https://creativecommons.org/licenses/by/3.0/"), True),
        (("CC BY 3.0", "CC BY 4.0"), True),
        (("CC BY 4.0", NLM), True),
        ((NLM, NLM, "https://www.nlm.nih.gov/terms.html"), False),
        (
            (
                "BSD-2-Clause",
                'BSD 2-Clause "Simplified" License',
                "https://opensource.org/license/bsd-2-clause",
            ),
            False,
        ),
        (("MIT", "MIT License", "https://opensource.org/license/mit"), False),
        ((None, "CC BY 4.0", ""), False),
        ((), False),
    ],
)
def test_statements_differ_where_they_name_two_licences(statements, differ):
    assert licences_differ(*statements) is differ


# Texts.


@pytest.mark.parametrize(
    ("text", "plain"),
    [
        ("a\nb", "a b"),
        ("<i>Covid- </i>(Version 1)", "Covid- (Version 1)"),
        ("A &amp; B", "A & B"),
        ("&lt;i&gt; is markup", "<i> is markup"),
        ("x < y and y > z", "x < y and y > z"),
        ("a\x00b\x1b[0m\u2028c", "a b [0m c"),
        (None, ""),
    ],
)
def test_a_text_of_the_tables_is_made_plain(text, plain):
    assert clean(text) == plain


@pytest.mark.parametrize(
    ("cell", "found"),
    [
        ("10.7937/A", ("10.7937/a",)),
        ("10.7937/a, 10.5281/b", ("10.7937/a", "10.5281/b")),
        ("10.7937/a; 10.5281/b", ("10.7937/a", "10.5281/b")),
        ("https://doi.org/10.7937/A;doi:10.7937/a", ("10.7937/a",)),
        ("10.1002/(sici)1097(199;1)a,b", ("10.1002/(sici)1097(199;1)a,b",)),
        ("10.7937/a, ", ("10.7937/a",)),
        ("", ()),
        (None, ()),
    ],
)
def test_a_cell_holds_any_number_of_dois(cell, found):
    assert dois(cell) == found


# Sources made of rows.


def row(citation="", doi="10.1/a", title="Title", name="c1", licence="CC BY 4.0"):
    source = {
        "source_title": title,
        "source_type": "original_data",
        "source_doi": doi,
        "source_url": None,
        "license": {
            "license_short_name": licence,
            "license_long_name": None,
            "license_url": None,
        },
        "citation": citation,
    }
    return {"collection_id": name, "sources": [source]}


def group(doi="10.1/a", name="c1", licence="CC BY 4.0", series=1, size=10):
    return Group(name, doi, licence, series, size)


def one(citation, doi="10.1/a"):
    cited = collect([group(doi)], read_stated([row(citation, doi)]), 25)
    return cited[0].reference


START = "Doe, J., & de Roe, R.-M. "
END = "(2020). <i>The\ntitle (T)</i> (Version 2) [Data set]. Zenodo. "
LINK = "https://doi.org/10.1/A"


def test_a_citation_that_parses_surely_gives_its_fields():
    entry = one(START + END + LINK)
    assert entry.authors == (Name("Doe", "J."), Name("de Roe", "R.-M."))
    assert (entry.year, entry.title, entry.version) == (2020, "The title (T)", "2")
    assert (entry.publisher, entry.note, entry.doi) == ("Zenodo", None, "10.1/a")


@pytest.mark.parametrize(
    ("authors", "names"),
    [
        ("A Group (AG). ", (Name("A Group (AG)"),)),
        ("Small Jr., W., & Doe, J. ", (Name("Small Jr.", "W."), Name("Doe", "J."))),
        ("Štork, Č., & Doe, J. ", (Name("Štork", "Č."), Name("Doe", "J."))),
    ],
)
def test_authors_are_split_where_each_has_initials(authors, names):
    assert one(authors + END + LINK).authors == names


@pytest.mark.parametrize(
    "citation",
    [
        "Doe, John, & Roe, R. " + END + LINK,
        "Doe, J., A Group, & Roe, R. " + END + LINK,
        "Doe, J.; Roe, Richard " + END + LINK,
        "Feng, S.-ting, & Doe, J. " + END + LINK,
        START + END + "https://doi.org/10.1/other",
        START + END + LINK + " and more",
        START + "(2020) Title. Zenodo. " + LINK,
        START + "(2020). A. https://doi.org/10.2/x " + START + END + LINK,
        "a website, read in May",
    ],
)
def test_a_citation_that_does_not_parse_is_a_note_and_no_author_is_made_up(citation):
    entry = one(citation)
    assert entry.note == clean(citation)
    assert (entry.authors, entry.year, entry.title) == ((), None, "Title")
    assert "author" not in entry.csl()


@pytest.mark.parametrize("dots", ["…", "..."])
def test_authors_that_were_left_out_are_said_to_be(dots):
    entry = one(f"Doe, J., Roe, R., {dots} Poe, E. " + END + LINK)
    assert entry.abridged
    assert "author = {Doe, J. and Roe, R. and others}" in entry.bibtex()
    assert entry.csl()["author"][-1] == {"literal": "others"}
    assert "Poe, E." in entry.note


def test_a_series_with_two_dois_counts_for_both_and_once_in_all():
    rows = [row("A.", "10.1/a"), row("B.", "10.1/b")]
    cited = collect([group("10.1/A; 10.1/b", series=3)], read_stated(rows), 25)
    assert [source.doi for source in cited] == ["10.1/a", "10.1/b"]
    assert [source.series for source in cited] == [3, 3]
    assert (cited.series, cited.size) == (3, 10)


def test_what_the_tables_do_not_know_is_listed_and_never_dropped():
    groups = [
        group("10.1/a", series=1),
        group("10.1/a, 10.9/unknown", series=2),
        group(None, series=4, licence=None),
        group("10.1/a", name="another", series=8),
    ]
    cited = collect(groups, read_stated([row("A.")]), 25)
    assert cited.series == 15
    assert {(u.doi, u.series) for u in cited.uncited} == {
        ("10.9/unknown", 2),
        (None, 4),
    }
    assert [u.candidates for u in cited.uncited] == [("10.1/a",)] * 2
    # A DOI is what it is in whatever collection.
    assert [(s.doi, s.series, s.collections) for s in cited] == [
        ("10.1/a", 11, ("another", "c1"))
    ]
    assert "10.9/unknown" in str(cited)
    assert "Whom to cite is not known" in cited.notice()


def test_one_publication_under_two_licences_is_two_sources_and_one_entry():
    groups = [group(licence="CC BY 3.0"), group(licence="CC BY 4.0")]
    cited = collect(groups, read_stated([row("A.")]), 25)
    assert [s.license_short_name for s in cited] == ["CC BY 3.0", "CC BY 4.0"]
    assert [s.conflicting for s in cited] == [True, False]
    assert len(cited.references) == 2
    assert cited.text().count("A.\n") == 1


def test_the_tables_of_release_23_are_spelt_otherwise_and_read_the_same():
    source = {
        "Access": "Public",
        "Citation": "A <i>b</i>.",
        "license": {"license_short_name": "CC BY 4.0", "license_url": BY},
        "source_doi": "10.1/A",
        "source_url": None,
    }
    results = [{"source_DOI": "10.1/a", "analysis_result_title": "T", "Citation": "x"}]
    first, last = read_stated([{"collection_id": "c1", "Sources": [source]}], results)
    assert (first.citation, first.doi, first.license_url) == ("A b.", "10.1/a", BY)
    assert first.source_type == last.source_type == "analysis_result"
    assert last.title == "T"


# All of IDC.


def test_every_doi_of_the_installed_release_is_covered():
    asked = {doi for cell in IDC.unique("source_DOI") for doi in dois(cell)}
    assert set(WHOLE.dois) == asked
    assert len(asked) == 242
    assert WHOLE.uncited == ()
    assert sum(source.series for source in WHOLE) == WHOLE.series == len(IDC)
    assert WHOLE.size == IDC.size
    assert WHOLE.licenses == IDC.licenses()


def test_every_citation_of_the_installed_release_is_clean():
    for source in WHOLE:
        for text in (source.citation, source.title, source.url):
            assert text
            assert text == text.strip()
            assert not re.search(r"<[/a-z]|&\w+;|&#|\s\s|[\x00-\x1f]", text), text
        assert source.license_url.startswith("https://")


def test_what_was_read_from_a_citation_puts_it_together_again():
    """The fields are compared with the text, by putting them back into its form."""
    sure = 0
    for source in WHOLE:
        entry = source.reference
        if not entry.authors:
            assert entry.note == source.citation
            continue
        sure += 1
        names = [
            f"{n.family}, {n.given}" if n.given else n.family for n in entry.authors
        ]
        joint = ", & "
        if entry.abridged:
            joint = ", … " if "…" in source.citation else ", ... "
        listed = f"{', '.join(names[:-1])}{joint}{names[-1]}"
        listed = names[0] if len(names) == 1 else listed
        dot = "" if listed.endswith(".") or len(names) > 1 else "."
        version = f" (Version {entry.version})" if entry.version else ""
        made = f"{listed}{dot} ({entry.year}). {entry.title}{version}"
        assert source.citation.startswith(f"{made} [Data"), source.citation
        assert source.citation.lower().endswith(
            f"]. {entry.publisher}. https://doi.org/{entry.doi}".lower()
        )
    assert sure == 229


def test_one_source_of_the_installed_release_has_conflicting_statements():
    (conflict,) = WHOLE.conflicts
    assert conflict.source.collections == ("phantom_fda",)
    assert dict(conflict.statements) == {
        "index": "CC BY-NC 3.0",
        "source, short name": "CC BY-NC 3.0",
        "source, long name": "Creative Commons Attribution 3.0 Unported License",
        "source, URL": "https://creativecommons.org/licenses/by/3.0/",
    }
    assert conflict.source.series == len(IDC.search(collection_id="phantom_fda"))
    fda = IDC.search(collection_id="phantom_fda").citations()
    assert "Conflicting statements" in fda.notice()
    assert "phantom_fda" in str(fda)


@pytest.mark.parametrize("idc_version", [1, 5, 17, 23, 24])
def test_an_older_release_accounts_for_every_series(idc_version):
    cohort = open_idc(idc_version).all()
    cited = cohort.citations()
    cited_series = sum(source.series for source in cited)
    assert cited_series + sum(u.series for u in cited.uncited) == len(cohort)
    assert cited.idc_version == idc_version
    assert all(uncited.candidates for uncited in cited.uncited)


def test_exactly_the_series_of_the_cohort_count():
    lung = IDC.search(collection_id="nsclc_radiomics")
    cited = lung.citations()
    assert cited.licenses == lung.licenses()
    assert {s.source_type for s in cited} == {"original_data", "analysis_result"}
    images = lung.search(Modality="CT").citations()
    assert [s.title for s in images] == ["Data From NSCLC-Radiomics"]
    assert images[0].collections == ("nsclc_radiomics",)
    assert (len(images), images[0:1], images.dois) == (
        1,
        images.sources,
        ["10.7937/k9/tcia.2015.pf0m9rei"],
    )


# Forms.


def test_the_idc_paper_is_the_last_of_every_form():
    assert WHOLE.text().splitlines()[-1].endswith("https://doi.org/10.1148/rg.230180")
    assert WHOLE.csl()[-1]["DOI"] == IDC_PAPER.doi
    assert parse_bibtex(WHOLE.bibtex())[-1][1] == IDC_PAPER.doi
    assert len(WHOLE.text().splitlines()) == 243


def parse_bibtex(text: str) -> list[tuple[str, str, dict[str, str]]]:
    """Read BibTeX as strictly as can be: nothing may stand between entries."""
    entries = []
    at = 0
    while at < len(text):
        head = re.compile(r'@([a-z]+)\{([^\s"#%\'(),={}\\~]+),\n').match(text, at)
        assert head, text[at : at + 80]
        at = head.end()
        fields: dict[str, str] = {}
        while text[at] != "}":
            start = re.compile(r"  ([a-z]+) = \{").match(text, at)
            assert start, text[at : at + 80]
            assert start[1] not in fields
            depth, begin = 1, start.end()
            at = begin
            while depth:
                # Braces count even behind a backslash, and nowhere else.
                depth += {"{": 1, "}": -1}.get(text[at], 0)
                at += 1
            fields[start[1]] = text[begin : at - 1]
            assert "\n" not in fields[start[1]]
            assert text[at : at + 2] == ",\n"
            at += 2
        assert re.match(r"\}\n\n?", text[at:])
        at += re.match(r"\}\n\n?", text[at:]).end()
        entries.append((head[1], head[2], fields))
    return entries


def check_bibtex(cited: Citations) -> None:
    entries = parse_bibtex(cited.bibtex())
    keys = [key.lower() for _, key, _ in entries]
    assert len(set(keys)) == len(keys) == len(cited.references)
    for kind, _, fields in entries:
        assert kind in ("misc", "article")
        assert fields["title"][0] + fields["title"][-1] == "{}"
        for name, value in fields.items():
            if name not in ("doi", "url"):
                bare = re.sub(r"\\(?:[&%$#_]|text[a-z]+\{\})", "", value)
                assert not set(bare) & set("\\&%$#_~^"), value


CSL = {
    "id": str,
    "type": str,
    "title": str,
    "author": list,
    "issued": dict,
    "container-title": str,
    "volume": str,
    "issue": str,
    "page": str,
    "publisher": str,
    "version": str,
    "DOI": str,
    "URL": str,
    "note": str,
}


def check_csl(cited: Citations) -> None:
    items = json.loads(json.dumps(cited.csl()))
    assert items == cited.csl()
    assert len({item["id"] for item in items}) == len(items)
    for item in items:
        assert all(isinstance(item[name], CSL[name]) for name in item)
        assert {"id", "type", "title"} <= set(item)
        assert item["type"] in ("dataset", "article-journal")
        for author in item.get("author", ()):
            assert set(author) in ({"family", "given"}, {"literal"})
        if "issued" in item:
            ((year,),) = item["issued"]["date-parts"]
            assert 1990 < year < 2100


def test_bibtex_and_csl_of_all_of_idc_are_valid():
    check_bibtex(WHOLE)
    check_csl(WHOLE)
    by_key = {key: fields for _, key, fields in parse_bibtex(WHOLE.bibtex())}
    nlst = by_key["10.7937/tcia.hmq8-j677"]
    assert nlst["author"] == "{National Lung Screening Trial Research Team}"
    assert (nlst["year"], nlst["doi"]) == ("2013", "10.7937/tcia.hmq8-j677")
    kits = by_key["10.7937/tcia.2019.ix49e8nx"]["author"].split(" and ")
    assert kits[0] == "Heller, N."


text = st.text(max_size=30)
nasty = st.text(alphabet='{}\\&%$#_~^"@,.\n <>i/é…', max_size=20)


@given(st.lists(st.tuples(nasty | text, nasty | text, nasty | text), max_size=4))
def test_any_text_of_the_tables_gives_valid_forms(texts):
    rows = [
        row(citation, f"10.1/{doi}" if doi.strip() else None, title, f"c{i}")
        for i, (citation, doi, title) in enumerate(texts)
    ]
    groups = [group(r["sources"][0]["source_doi"], r["collection_id"]) for r in rows]
    cited = collect(groups, read_stated(rows), 25)
    assert cited.series == len(texts)
    check_bibtex(cited)
    check_csl(cited)
    assert cited.notice("0" * 64) == collect(groups, read_stated(rows), 25).notice(
        "0" * 64
    )
    assert len(cited.text().splitlines()) <= len(texts) + 1


def test_html_shows_no_markup_of_the_tables():
    evil = "<script>alert(1)</script>"
    rows = [row(evil, name=evil, title=evil)]
    rows[0]["sources"][0]["source_url"] = "javascript:alert(1)"
    rows[0]["sources"][0]["license"]["license_url"] = 'https://x/"><script>'
    shown = collect([group(name=evil)], read_stated(rows), 25)._repr_html_()
    assert "<script>" not in shown
    assert 'href="javascript' not in shown
    assert "&lt;script&gt;" in shown
    assert "<table>" in WHOLE._repr_html_()


def test_a_notice_says_licences_sources_counts_and_release():
    cited = IDC.search(collection_id="nsclc_radiomics").citations()
    notice = cited.notice("ab" * 32)
    assert f"{MANIFEST_LINE}{'ab' * 32}\n" in notice
    assert "release 25, idc-index-data" in notice
    flat = " ".join(notice.split())
    for source in cited:
        assert source.citation in flat
        assert source.license_url in notice
        assert f"{source.series:,} series, {source.size:,} bytes" in notice
    assert IDC_PAPER.url in notice
    assert all(len(line) <= 88 or "://" in line for line in notice.splitlines())


def test_citations_are_values():
    again = IDC.all().citations()
    assert again == WHOLE
    assert pickle.loads(pickle.dumps(WHOLE)) == WHOLE
    assert repr(WHOLE) == (
        "<Citations of IDC release 25: 242 sources of 1,044,191 series>"
    )


# Where the tables are.


def test_the_sample_has_citations_though_it_has_no_doi():
    cited = SAMPLE.citations()
    assert cited.uncited == ()
    assert cited.dois == []
    assert sum(source.series for source in cited) == len(SAMPLE)
    titles = {source.title: source.collections for source in cited}
    assert titles["highdicom: test files"] == ("sample_seg", "sample_sm")
    check_bibtex(cited)
    check_csl(cited)


@pytest.fixture
def manifest(tmp_path):
    return IDC.search(collection_id="rider_pilot").to_manifest(tmp_path / "m.s5cmd")


def test_the_rows_of_a_manifest_have_the_citations_of_its_tables(manifest):
    found = open_manifest(manifest)
    meant = IDC.search(collection_id="rider_pilot").citations()
    assert found.citations() == meant
    assert pickle.loads(pickle.dumps(found)).citations() == meant
    sample = SAMPLE.all().to_manifest(manifest.with_name("s.s5cmd"))
    assert open_manifest(sample, tables="sample").citations() == SAMPLE.citations()


def test_a_manifest_of_superseded_series_has_their_citations(tmp_path):
    old = open_idc(20).search(collection_id="nlst", Modality="SM")
    found = open_manifest(old.to_manifest(tmp_path / "old.s5cmd"))
    assert found.idc_version == 20
    assert found.citations() == old.citations()
    assert found.citations().uncited == ()


def without(folder: Path, *tables: str) -> Path:
    shutil.copytree(sample_path() / "tables", folder)
    for table in tables:
        (folder / f"{table}.parquet").unlink()
    return folder


def test_tables_without_collections_say_what_is_missing(tmp_path):
    place = without(tmp_path / "tables", "collections_index", "analysis_results_index")
    cohort = open_idc(2, tables=place)
    with pytest.raises(TableNotFound, match="collections_index"):
        cohort.citations()
    # No other statement contradicts what the index says.
    assert cohort.search(commercial_use=True).left_out == {}


def test_the_table_of_analysis_results_is_not_needed(tmp_path):
    place = without(tmp_path / "tables", "analysis_results_index")
    assert open_idc(2, tables=place).citations().sources == SAMPLE.citations().sources


# Commercial use.


def test_commercial_use_keeps_and_leaves_out_every_series_of_idc():
    kept = IDC.search(commercial_use=True)
    assert set(kept.licenses()) == {"CC BY 3.0", "CC BY 4.0"}
    whole = IDC.licenses()
    assert kept.left_out == {k: whole[k] for k in ("CC BY-NC 3.0", "CC BY-NC 4.0", NLM)}
    assert len(kept) + sum(kept.left_out.values()) == len(IDC)
    assert f"{whole[NLM]}" in str(kept)
    assert "left out" in str(kept)
    assert "licence allows commercial use" in repr(kept)


def test_without_commercial_use_nothing_is_left_out_and_nothing_said():
    assert CT.left_out == {}
    assert "left out" not in str(CT)


def test_superseded_series_of_unknown_licence_are_left_out():
    old = open_idc(17).search(commercial_use=True)
    unknown = open_idc(17).licenses()[None]
    assert old.left_out["unknown"] == unknown
    assert None not in old.licenses()


def fixed(licences):
    count = len(licences)
    table = pa.table(
        {
            "crdc_series_uuid": [f"u{i}" for i in range(count)],
            "aws_bucket": ["b"] * count,
            "SeriesInstanceUID": [str(i) for i in range(count)],
            "license_short_name": pa.array(licences, pa.string()),
        }
    )
    return FixedRows(Manifest(table, 25, "a test"))


def test_commercial_use_goes_row_by_row_and_needs_the_column():
    rows = fixed(["CC BY 4.0", "CC BY-NC 4.0", NLM, None, "CC0", ""])
    kept = rows.rows(["SeriesInstanceUID"], Selection(commercial_use=True))
    assert [uid for (uid,) in kept] == ["0", "4"]
    bare = FixedRows(
        Manifest(rows.manifest_rows.table.drop(["license_short_name"]), 25)
    )
    with pytest.raises(UnknownColumn, match="license_short_name"):
        bare.rows(["SeriesInstanceUID"], Selection(commercial_use=True))
    nothing = fixed([NLM])
    assert nothing.rows(["SeriesInstanceUID"], Selection(commercial_use=True)) == []


@pytest.fixture
def disputed(tmp_path):
    """The sample, with a licence URL that contradicts the licence of the MR series."""
    place = without(tmp_path / "tables")
    path = place / "collections_index.parquet"
    rows = parquet.read_table(path).to_pylist()
    for found in rows:
        if found["collection_id"] == "sample_mr":
            found["sources"][0]["license"]["license_url"] = BY.replace("by", "by-nc")
    parquet.write_table(pa.Table.from_pylist(rows), path)
    return open_idc(2, tables=place, mirror=sample_path() / "bucket")


def test_a_licence_that_is_stated_in_two_ways_is_left_out(disputed):
    kept = disputed.search(commercial_use=True)
    assert kept.unique("collection_id") == ["sample_ct", "sample_seg", "sample_sm"]
    assert kept.left_out == {"MIT (conflicting)": 1}
    (conflict,) = disputed.citations().conflicts
    assert conflict.source.collections == ("sample_mr",)


@given(
    st.lists(st.sampled_from(["CC BY 4.0", "CC BY-NC 4.0", NLM, None]), max_size=3),
    st.sampled_from(["CC BY 4.0", "CC BY-NC 4.0", None]),
)
def test_groups_conflict_where_their_source_says_otherwise(licences, said):
    groups = [("c1", "10.1/A", licence) for licence in licences]
    found = conflicting_groups(groups, read_stated([row(licence=said)]))
    assert found == [g for g in groups if licences_differ(g[2], said)]


def test_commercial_use_false_or_none_is_no_condition():
    for value in (False, None):
        assert CT.search(commercial_use=value) == CT
        assert IDC.search(commercial_use=value) == IDC
        assert not Selection().where({"commercial_use": value})
    with pytest.raises(EmptySelection):
        IDC.search(commercial_use=False).urls()


@pytest.mark.parametrize("value", ["true", 1, [True]])
def test_commercial_use_is_a_truth_value(value):
    with pytest.raises(RequestError, match="commercial_use"):
        IDC.search(commercial_use=value)
    with pytest.raises(RequestError, match="commercial_use"):
        Selection.from_dict({"where": [], "commercial_use": value})


def test_a_misspelt_commercial_use_is_named():
    with pytest.raises(UnknownColumn, match="did you mean 'commercial_use'"):
        len(IDC.search(comercial_use=True))


def test_commercial_use_is_part_of_the_value_of_a_selection():
    plain = Selection().where({"Modality": "CT"})
    asked = plain.where({"commercial_use": True})
    assert asked == Selection().where({"Modality": "CT", "commercial_use": True})
    assert asked != plain
    assert asked.where({"Modality": "CT"}).query("1 = 1").commercial_use
    assert asked.to_dict() == {**plain.to_dict(), "commercial_use": True}
    assert "commercial_use" not in plain.to_dict()
    assert asked.to_arguments() == {"Modality": "CT", "commercial_use": True}
    for form in (asked, Selection(commercial_use=True)):
        assert Selection.from_dict(form.to_dict()) == form
        assert pickle.loads(pickle.dumps(form)) == form
    twice = asked.where({"Modality": "MR"}).to_arguments()
    assert Selection.from_dict(twice["selection"]).commercial_use
    assert Selection.from_dict({"where": [], "sql": []}) == Selection()
    tokens = {tokenize(replace(CT, selection=s)) for s in (plain, asked)}
    assert len(tokens) == 2


def test_a_catalog_of_intake_carries_commercial_use(tmp_path):
    entry = {
        "driver": "idc_cohort",
        "args": {"idc_version": 25, "collection_id": "nsclc_radiomics"},
    }
    entry["args"]["commercial_use"] = True
    path = tmp_path / "mine.yml"
    path.write_text(yaml.safe_dump({"sources": {"lung": entry}}))
    source = intake.open_catalog(path)["lung"]
    meant = IDC.search(collection_id="nsclc_radiomics", commercial_use=True)
    assert source.cohort == meant
    assert set(source.licenses()) == {"CC BY 4.0"}
    assert pickle.loads(pickle.dumps(source)).cohort == meant
    assert source.search(Modality="SEG").cohort.selection.commercial_use
    written = meant.to_catalog(tmp_path / "again.yml")
    assert intake.open_catalog(written)["cohort"].cohort == meant


def test_a_reader_of_intake_carries_commercial_use():
    data = IDCSelection(
        {"collection_id": "nsclc_radiomics", "commercial_use": True}, release=25
    )
    assert {"commercial_use": True} in data.conditions
    again = data.to_entry().to_data()
    meant = IDC.search(collection_id="nsclc_radiomics", commercial_use=True)
    assert data.open() == again.open() == meant


def test_another_release_is_asked_the_same():
    asked = IDC.search(collection_id="nsclc_radiomics", commercial_use=True)
    assert asked.at(20).selection == asked.selection
    assert set(asked.at(20).licenses()) == {"CC BY 4.0"}
    assert asked.diff(24).unchanged == len(asked)


# The notice beside a copy.


def test_a_copy_has_a_notice_and_a_second_run_leaves_it_alone(tmp_path):
    report = SAMPLE.all().materialize(tmp_path / "copy")
    path = tmp_path / "copy" / "NOTICE.txt"
    assert report.notice == path
    assert "NOTICE.txt" in str(report)
    digest = SAMPLE.all().manifest().digest
    assert path.read_text("utf-8") == SAMPLE.citations().notice(digest)
    stamp = path.stat().st_mtime_ns
    assert SAMPLE.all().materialize(tmp_path / "copy").notice == path
    assert path.stat().st_mtime_ns == stamp
    SAMPLE.all().materialize(tmp_path / "other")
    assert (tmp_path / "other" / "NOTICE.txt").read_bytes() == path.read_bytes()
    assert not [p for p in (tmp_path / "copy").iterdir() if p.suffix == ".part"]


def test_a_dry_run_and_whoever_wants_none_get_no_notice(tmp_path):
    CT.materialize(tmp_path / "copy", dry_run=True)
    assert not (tmp_path / "copy").exists()
    report = CT.materialize(tmp_path / "copy", notice=False)
    assert report.notice is None
    assert not (tmp_path / "copy" / "NOTICE.txt").exists()


def test_a_second_cohort_in_one_folder_has_a_notice_of_its_own(tmp_path):
    first = CT.materialize(tmp_path).notice
    kept = first.read_bytes()
    second = MR.materialize(tmp_path).notice
    assert second.name == f"NOTICE-{MR.manifest().digest[:12]}.txt"
    assert first.read_bytes() == kept
    assert "sample_mr" in second.read_text("utf-8")
    assert (CT.materialize(tmp_path).notice, MR.materialize(tmp_path).notice) == (
        first,
        second,
    )
    assert len(list(tmp_path.glob("NOTICE*"))) == 2


def test_a_file_of_the_users_is_left_alone(tmp_path):
    mine = tmp_path / "NOTICE.txt"
    mine.write_text("mine")
    path = CT.materialize(tmp_path).notice
    assert mine.read_text() == "mine"
    assert path.name == f"NOTICE-{CT.manifest().digest[:12]}.txt"
    path.unlink()
    path.mkdir()
    with pytest.raises(PlanError, match="not a plain file"):
        CT.materialize(tmp_path)


def test_a_notice_of_the_same_cohort_that_says_less_is_replaced(tmp_path):
    path = CT.materialize(tmp_path).notice
    line = f"{MANIFEST_LINE}{CT.manifest().digest}\n"
    path.write_text(f"NOTICE\n{line}")
    assert CT.materialize(tmp_path).notice == path
    assert "sample_ct" in path.read_text("utf-8")


@pytest.mark.parametrize("template", [None, ""])
def test_a_notice_is_not_extra(tmp_path, template):
    for cohort in (CT, MR):
        cohort.materialize(tmp_path, dir_template=template)
    found = SAMPLE.search(Modality=["CT", "MR"]).verify(tmp_path, dir_template=template)
    assert (found.ok, found.extra) == (True, ())


def test_a_notice_without_citations_says_what_the_index_knows(tmp_path):
    place = without(tmp_path / "tables", "collections_index", "analysis_results_index")
    cohort = open_idc(2, tables=place, mirror=sample_path() / "bucket")
    notice = cohort.all().materialize(tmp_path / "copy").notice.read_text("utf-8")
    assert "BSD-2-Clause" in notice
    assert "sample_ct: 1 series" in notice
    assert "no DOI is given" in notice
    assert str(tmp_path) not in notice


def test_a_cohort_of_a_manifest_has_a_notice(tmp_path):
    path = CT.to_manifest(tmp_path / "ct.s5cmd")
    cohort = open_manifest(path, tables="sample")
    notice = cohort.materialize(tmp_path / "copy").notice.read_text("utf-8")
    assert notice == CT.materialize(tmp_path / "again").notice.read_text("utf-8")
    assert str(tmp_path) not in notice


def test_copies_at_once_into_one_folder_leave_one_notice_for_each_cohort(tmp_path):
    barrier = threading.Barrier(6, timeout=30)
    failures = []

    def work(cohort):
        barrier.wait()
        try:
            cohort.materialize(tmp_path)
        except Exception as error:  # noqa: BLE001
            failures.append(error)

    threads = [threading.Thread(target=work, args=(c,)) for c in (CT, MR) * 3]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    said = [path.read_text("utf-8") for path in tmp_path.glob("NOTICE*.txt")]
    digests = {c.manifest().digest for c in (CT, MR)}
    assert {re.search(rf"{MANIFEST_LINE}(\w+)", text)[1] for text in said} == digests
    assert len(said) == 2
