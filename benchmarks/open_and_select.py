"""Time opening release 25 and selecting a cohort, as whole cold processes.

Each candidate is a Python program of its own, from exec to exit, that prints the
SeriesInstanceUIDs of the CT series of tcga_luad. The candidates run in turn, A B C
A B C ..., after one round that warms the page cache and does not count. In every
round all answers must be the same, so that a fast wrong answer never counts.

Wall is from start to exit; CPU is user + system of the process and of the children
it waited for; RSS is its peak. Each figure is a median over the rounds. Each ratio is
the median of the ratios within a round: ours over the line it stands in, so below 1
we are the faster or the smaller. No process shows a peak below this program's own
(the kernel carries it over exec), so the RSS of `python -c pass` may be this one's.

    python benchmarks/open_and_select.py --peer-python build/peer/bin/python

The peer is idc-index 0.13.4 in an environment of its own. Its speed depends on its
pandas: give --peer-python once for each environment to compare, and quote the
faster one.
"""

import os
import platform
import shlex
import sys
from functools import partial
from pathlib import Path

from measuring import Candidate, Run, measure, median, options, ratio, versions

SERIES = 551
"""CT series of tcga_luad in release 25: what every candidate must print."""

NOTHING = "pass"

OURS = """
import intake_idc
release = intake_idc.open_idc(idc_version=25)
cohort = release.search(collection_id="tcga_luad", Modality="CT")
print(*cohort.keys(), sep="\\n")
"""

INTAKE = """
import intake
import intake_idc
catalog = intake.open_catalog(intake_idc.catalog_path())
release = catalog["idc"](idc_version=25)
cohort = release.search(collection_id="tcga_luad", Modality="CT")
print(*cohort.keys(), sep="\\n")
"""

DUCKDB = """
from importlib.util import find_spec
from pathlib import Path
import duckdb
table = Path(find_spec("idc_index_data").origin).with_name("idc_index.parquet")
rows = duckdb.execute(
    "SELECT SeriesInstanceUID FROM read_parquet(?) "
    "WHERE collection_id = 'tcga_luad' AND Modality = 'CT'", [str(table)]
).fetchall()
print(*(uid for uid, in rows), sep="\\n")
"""

PEER = """
from idc_index import IDCClient
table = IDCClient().sql_query(
    "SELECT SeriesInstanceUID FROM index "
    "WHERE collection_id = 'tcga_luad' AND Modality = 'CT'"
)
print(*table["SeriesInstanceUID"], sep="\\n")
"""


def check(candidates: list[Candidate], runs: list[Run]) -> None:
    """Refuse a round in which the answers differ or have the wrong length.

    Raises
    ------
    SystemExit
        Some candidate answered differently from the first.
    """
    answers = {
        c.name: r.answer for c, r in zip(candidates, runs, strict=True) if c.selects
    }
    first, expected = next(iter(answers.items()))
    if len(expected) != SERIES:
        raise SystemExit(f"{first}: {len(expected)} series, expected {SERIES}")
    for name, answer in answers.items():
        if answer != expected:
            raise SystemExit(
                f"{name} and {first} differ in {len(answer ^ expected)} series"
            )


def table(candidates: list[Candidate], measured: list[list[Run]]) -> str:
    """Medians and ratios as a Markdown table."""
    names = [c.name for c in candidates]
    api, intake = names.index("intake-idc"), names.index("intake-idc through Intake")
    middle, over = partial(median, measured), partial(ratio, measured)
    lines = [
        (
            "| program | wall s | CPU s | peak RSS MiB | ours / this, wall "
            "| ours through Intake / this, wall | ours / this, RSS |"
        ),
        "|---|---:|---:|---:|---:|---:|---:|",
    ]
    lines.extend(
        f"| {name} | {middle(i, 'wall'):.3f} | {middle(i, 'cpu'):.3f} "
        f"| {middle(i, 'rss'):.0f} | {over(api, i, 'wall'):.3f} "
        f"| {over(intake, i, 'wall'):.3f} | {over(api, i, 'rss'):.3f} |"
        for i, name in enumerate(names)
    )
    return "\n".join(lines)


def main() -> None:
    """Measure and print one table with the command that gave it."""
    arguments = options(__doc__)
    python = arguments.python
    candidates = [
        Candidate("`python -c pass`", python, NOTHING, selects=False),
        Candidate("intake-idc", python, OURS),
        Candidate("intake-idc through Intake", python, INTAKE),
        Candidate("DuckDB over the parquet", python, DUCKDB),
    ]
    notes = [
        "- ours: "
        + versions(python, "intake-idc", "intake", "duckdb", "idc-index-data"),
    ]
    for peer in arguments.peer_python:
        pandas = versions(peer, "pandas").rpartition(", ")[2]
        candidates.append(Candidate(f"idc-index with {pandas}", peer, PEER))
        notes.append(
            f"- peer ({pandas}): "
            + versions(peer, "idc-index", "pandas", "duckdb", "idc-index-data")
        )

    # The load is noted because a busy machine shifts seconds more than ratios.
    before = os.getloadavg()[0]
    measured = measure(candidates, arguments.rounds, check)
    command = shlex.join(["python", Path(sys.argv[0]).as_posix(), *sys.argv[1:]])
    print(table(candidates, measured))
    print()
    print(f"`{command}`; {arguments.rounds} rounds in turn after a warm-up, medians;")
    print(
        f"every round gave the same {SERIES} series from every program; "
        f"{platform.machine()}, {os.cpu_count()} cores, "
        f"load {before:.1f} before and {os.getloadavg()[0]:.1f} after."
    )
    print()
    print(*notes, sep="\n")


if __name__ == "__main__":
    main()
