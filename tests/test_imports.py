"""What importing and opening load, in processes of their own."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

HEAVY = [
    "dask",
    "pandas",
    "pyarrow",
    "pydicom",
    "s3fs",
    "gcsfs",
    "duckdb",
    "obstore",
    "numpy",
]


def loaded_by(code: str, names: list[str] = HEAVY) -> set[str]:
    """Run code in a fresh process, and give which packages of these it loaded."""
    report = (
        "\nimport sys, json\n"
        f"print(json.dumps([name for name in {names} if name in sys.modules]))"
    )
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code + report],
        capture_output=True,
        text=True,
        check=True,
    )
    return set(json.loads(done.stdout.splitlines()[-1]))


def test_importing_the_package_loads_nothing_heavy():
    assert loaded_by("import intake_idc") == set()


def test_importing_intake_loads_nothing_heavy_because_of_this_package():
    assert loaded_by("import intake") == set()


@pytest.mark.parametrize(
    "code",
    [
        "cat = intake.open_catalog(intake_idc.catalog_path()); cat.idc.idc_version",
        "intake.open_catalog(intake_idc.catalog_path()).idc.search(Modality='CT')",
        "intake.open_idc(idc_version=24).idc_version",
        "intake.open_catalog(intake_idc.catalog_path()).v20.collections.idc_version",
    ],
    ids=["catalog", "search", "driver", "pinned file"],
)
def test_opening_a_catalog_loads_nothing_heavy(code):
    assert loaded_by(f"import intake, intake_idc\n{code}") == set()


def test_counting_a_cohort_loads_the_query_engine_alone():
    code = "import intake\nlen(intake.open_idc(idc_version=25).search(Modality='CT'))"
    assert loaded_by(code) == {"duckdb"}


def test_counting_a_cohort_loads_no_network():
    code = "import intake_idc\nlen(intake_idc.open_idc(25).search(Modality='CT'))"
    assert loaded_by(code, ["ssl", "http.client", "asyncio", "fsspec"]) == set()


def test_a_command_loads_no_other():
    code = (
        "import contextlib, io\n"
        "from intake_idc.cli import main\n"
        "told = io.StringIO()\n"
        "with contextlib.suppress(SystemExit), contextlib.redirect_stdout(told):\n"
        "    main(['copy', '--help'])\n"
    )
    others = ["intake_idc.cli.exports", "intake_idc.cli.sets", "intake_idc.cohort"]
    assert loaded_by(code, ["intake_idc.cli.copies", *others]) == {
        "intake_idc.cli.copies"
    }


def test_every_public_name_is_found_and_listed():
    code = (
        "import intake_idc\n"
        "missing = [n for n in intake_idc.__all__ if not hasattr(intake_idc, n)]\n"
        "assert not missing, missing\n"
        "assert set(intake_idc.__all__) <= set(dir(intake_idc))\n"
        "try: intake_idc.nothing\n"
        "except AttributeError: pass\n"
        "else: raise SystemExit('no error')\n"
    )
    loaded_by(code)


@pytest.mark.parametrize(
    "code",
    [
        "x = open_idc(25).search(collection_id='rider_pilot').table",
        "x = open_idc(25).search(collection_id='rider_pilot'); y = len(x), x.df",
        "x = open_idc(2, tables='sample').search(Modality='CT').datasets().compute()",
        "x = open_idc(25); f = x.manifest()",
    ],
)
def test_a_process_ends_in_silence(code):
    done = subprocess.run(
        [sys.executable, "-c", f"from intake_idc import open_idc\n{code}"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stderr == ""
