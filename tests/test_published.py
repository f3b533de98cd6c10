"""Published packages: what is rebuilt from one is what the others hold.

These fetch the index packages of older releases with pip, some 80 MB each, and so
run only when asked for: ``pytest -m network tests/test_published.py``.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from intake_idc import diff, open_idc, open_release
from intake_idc.release.facts import published_wheels
from intake_idc.selection import Selection

pytestmark = [pytest.mark.network, pytest.mark.timeout(900)]

EVERYTHING = Selection()
VERSIONS = ["17.0.0", "18.2.0", "20.0.3", "23.10.1", "24.2.2"]


@pytest.fixture(scope="module", name="shelf")
def _shelf(tmp_path_factory) -> Path:
    """A folder with the wheels, as a user would make it."""
    folder = tmp_path_factory.mktemp("wheels")
    named = [f"idc-index-data=={version}" for version in VERSIONS]
    for requirement in named:
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps"]
        subprocess.run([*command, "-d", str(folder), requirement], check=True)
    return folder


@pytest.fixture(params=VERSIONS)
def own(request, shelf, monkeypatch):
    """A release, read from the package that came with it."""
    monkeypatch.setenv("INTAKE_IDC_ARTIFACTS", str(shelf))
    release = open_release(int(request.param.split(".")[0]))
    assert release.published
    assert request.param in release.source
    return release


def test_the_wheels_are_those_that_are_recorded(shelf):
    names = sorted(path.name for path in shelf.iterdir())
    assert len(names) == len(VERSIONS)
    assert set(names) <= set(published_wheels())


def test_the_rebuilt_series_are_the_published_ones(own):
    rebuilt = open_release(own.idc_version, "installed")
    assert not rebuilt.published
    names = ["crdc_series_uuid", "SeriesInstanceUID", "collection_id"]
    assert set(own.rows(names, EVERYTHING)) == set(rebuilt.rows(names, EVERYTHING))


def test_sizes_and_counts_are_the_published_ones(own):
    names = ["crdc_series_uuid", "series_size_MB", "instanceCount"]
    theirs = {row[0]: row[1:] for row in own.rows(names, EVERYTHING)}
    rebuilt = open_release(own.idc_version, "installed").rows(names, EVERYTHING)
    for uuid, size, count in rebuilt:
        assert abs(theirs[uuid][0] - size) < 0.0051
        assert count in (None, theirs[uuid][1])


def test_attributes_are_as_published(shelf):
    """Of release 20, 12,338 licences have changed since, most from 3.0 to 4.0."""
    wheel = next(shelf.glob("idc_index_data-20.0.3-*.whl"))
    found = diff(open_release(20, wheel), open_release(20, "installed"))
    assert found.attributes_compared
    assert (found.added, found.removed, found.revised) == ((), (), ())
    rows = found.attributes.to_pylist()
    licences = [row for row in rows if row["attribute"] == "license_short_name"]
    newer = [
        r for r in licences if (r["before"], r["after"]) == ("CC BY 3.0", "CC BY 4.0")
    ]
    assert sum(row["series"] for row in newer) == 12_039
    assert sum(row["series"] for row in licences) == 12_338


def test_an_older_package_rebuilds_older_releases_too(shelf):
    wheel = next(shelf.glob("idc_index_data-24.2.2-*.whl"))
    names = ["crdc_series_uuid"]
    for version in (20, 23):
        older = open_release(version, wheel).rows(names, EVERYTHING)
        newer = open_release(version, "installed").rows(names, EVERYTHING)
        assert set(older) == set(newer)


def test_a_cohort_of_an_old_package_lies_in_the_buckets_of_today(shelf):
    """phantom_fda has moved to another bucket since."""
    wheel = next(shelf.glob("idc_index_data-20.0.3-*.whl"))
    phantoms = open_idc(20, tables=wheel).search(collection_id="phantom_fda")
    manifest = phantoms.manifest()
    assert set(manifest.table["aws_bucket"].to_pylist()) == {"idc-open-data"}
