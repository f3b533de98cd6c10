"""Time what pins a release: rebuilding an old one, comparing two, opening a lock.

Each candidate is a Python program of its own, from exec to exit. They run in turn,
after one round that warms the page cache and does not count; medians are given.
Every round must give the answers that are known: the number of series of release 20
and the digest of their uuids as they were published, and the numbers of a difference
that pandas worked out of the same tables.

    python benchmarks/releases.py

``--cache`` runs them once more with the derived cache, which is made first, in a
folder that is thrown away.
"""

import argparse
import json
import os
import platform
import shlex
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from measuring import Candidate, Run, run, versions

LOCKED = 50_000
"""Series in the lock."""

NOTHING = "pass"
IMPORT = "import intake_idc"

REBUILD = """
import hashlib
import intake_idc
rows = intake_idc.open_release(20).rows(["crdc_series_uuid"], intake_idc.Selection())
uuids = sorted(uuid for uuid, in rows)
print(len(uuids), hashlib.sha256("\\n".join(uuids).encode()).hexdigest())
"""

CHECK = """
import intake_idc
info = intake_idc.open_release(20).info
print(info.series, info.sureness)
"""

COUNT = """
import intake_idc
print(len(intake_idc.open_idc(20)))
"""

DIFF = """
import intake_idc
found = intake_idc.diff(23, 25)
print(len(found.added), len(found.removed), len(found.revised))
"""

PANDAS_DIFF = """
from importlib.util import find_spec
from pathlib import Path
import pandas as pd
folder = Path(find_spec("idc_index_data").origin).parent
names = ["SeriesInstanceUID", "crdc_series_uuid"]
index = pd.read_parquet(
    folder / "idc_index.parquet",
    columns=[*names, "collection_id", "series_revised_idc_version"],
)
prior = pd.read_parquet(
    folder / "prior_versions_index.parquet",
    columns=[*names, "min_idc_version", "max_idc_version"],
)
held = (prior.min_idc_version <= 23) & (prior.max_idc_version >= 23)
back = index.collection_id.eq("mri_dir") & index.series_revised_idc_version.eq(2)
same = index[(index.series_revised_idc_version <= 23) & ~back]
old = pd.concat([same[names], prior[held][names]]).drop_duplicates()
both = old.merge(index[names], on="SeriesInstanceUID", how="outer", indicator=True)
other = both.crdc_series_uuid_x != both.crdc_series_uuid_y
revised = both["_merge"].eq("both") & other
print(
    both["_merge"].eq("right_only").sum(),
    both["_merge"].eq("left_only").sum(),
    revised.sum(),
)
"""

OPEN_LOCK = """
import intake_idc
cohort = intake_idc.open_lock({path!r})
print(len(cohort), cohort.locked.digest)
"""

MAKE_LOCK = """
import intake_idc
uids = intake_idc.open_idc(25).search(collection_id="nlst", Modality="CT").keys()
cohort = intake_idc.open_idc(25).search(SeriesInstanceUID=uids[:{n}])
cohort.lock({path!r})
print(len(cohort))
"""


def measure(candidates: list[Candidate], rounds: int) -> list[list[Run]]:
    """Run the candidates in turn, and hold their answers to those of the warm-up."""
    measured: list[list[Run]] = []
    expected = None
    for number in range(rounds + 1):
        runs = [run(candidate) for candidate in candidates]
        answers = [r.answer for r in runs]
        if expected is not None and answers != expected:
            raise SystemExit("a round gave other answers than the one before")
        expected = answers
        walls = "  ".join(f"{r.wall:.3f}" for r in runs)
        print(f"round {number}: {walls}", file=sys.stderr, flush=True)
        if number:
            measured.append(runs)
    return measured


def check(candidates: list[Candidate], runs: list[Run]) -> None:
    """Hold the answers to what is known, and equal questions to each other."""
    known = Path(__file__).parents[1] / "intake_idc" / "facts" / "releases.json"
    fact = json.loads(known.read_text())["releases"]["20"]
    told = {c.name: r.answer for c, r in zip(candidates, runs, strict=True)}
    rebuilt = frozenset({str(fact["series"]), fact["sha256"]})
    for name, answer in told.items():
        if name.startswith("list") and answer != rebuilt:
            raise SystemExit(f"{name}: {set(answer)}, published were {set(rebuilt)}")
        if name.startswith("rebuild") and answer != {str(fact["series"]), "exact"}:
            raise SystemExit(f"{name}: {set(answer)}, published were {set(rebuilt)}")
    diffs = {answer for name, answer in told.items() if name.startswith("diff")}
    if len(diffs) != 1:
        raise SystemExit(f"the differences differ: {diffs}")


def table(candidates: list[Candidate], measured: list[list[Run]]) -> str:
    """Medians as a Markdown table."""
    lines = ["| program | wall s | CPU s | peak RSS MiB |", "|---|---:|---:|---:|"]
    for i, candidate in enumerate(candidates):
        wall, cpu, rss = (
            statistics.median(getattr(runs[i], field) for runs in measured)
            for field in ("wall", "cpu", "rss")
        )
        lines.append(f"| {candidate.name} | {wall:.3f} | {cpu:.3f} | {rss:.0f} |")
    return "\n".join(lines)


def candidates_of(python: str, lock: str, suffix: str = "") -> list[Candidate]:
    """Give the programs, all of ours."""
    return [
        Candidate(f"rebuild and check all 25 releases{suffix}", python, CHECK),
        Candidate(f"list the uuids of release 20, in order{suffix}", python, REBUILD),
        Candidate(f"count release 20{suffix}", python, COUNT),
        Candidate(f"diff of releases 23 and 25{suffix}", python, DIFF),
        Candidate(
            f"open a lock of {LOCKED:,} series{suffix}",
            python,
            OPEN_LOCK.format(path=lock),
        ),
    ]


def main() -> None:
    """Measure and print one table with the command that gave it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--python", default=sys.executable, help="Python that has intake-idc"
    )
    parser.add_argument("--rounds", type=int, default=5, help="at least 5")
    parser.add_argument("--cache", action="store_true", help="with the derived cache")
    arguments = parser.parse_args()
    if arguments.rounds < 5:  # noqa: PLR2004 - a median of fewer says little
        parser.error("--rounds must be at least 5")

    python, before = arguments.python, os.getloadavg()[0]
    with tempfile.TemporaryDirectory() as folder:
        os.environ["INTAKE_IDC_CACHE"] = "off"
        lock = str(Path(folder) / "cohort.lock.json")
        make = MAKE_LOCK.format(path=lock, n=LOCKED)
        subprocess.run([python, "-c", make], check=True, stdout=subprocess.DEVNULL)
        candidates = [
            Candidate("`python -c pass`", python, NOTHING),
            Candidate("`import intake_idc`", python, IMPORT),
            *candidates_of(python, lock),
            Candidate("diff of the same, by pandas", python, PANDAS_DIFF),
        ]
        measured = measure(candidates, arguments.rounds)
        check(candidates, measured[-1])
        if arguments.cache:
            os.environ["INTAKE_IDC_CACHE"] = str(Path(folder) / "cache")
            build = "import intake_idc; intake_idc.build_cache()"
            made = run(Candidate("make the derived cache", python, build))
            cached = candidates_of(python, lock, ", with the derived cache")
            again = measure(cached, arguments.rounds)
            check(cached, again[-1])
            candidates += [Candidate("make the derived cache (once)", python, build)]
            candidates += cached
            both = zip(measured, again, strict=True)
            measured = [[*first, made, *second] for first, second in both]
    command = shlex.join(["python", Path(sys.argv[0]).as_posix(), *sys.argv[1:]])
    print(table(candidates, measured))
    print()
    print(f"`{command}`; {arguments.rounds} rounds in turn after a warm-up, medians;")
    print(
        f"{platform.machine()}, {os.cpu_count()} cores, "
        f"load {before:.1f} before and {os.getloadavg()[0]:.1f} after."
    )
    print(f"- {versions(python, 'intake-idc', 'duckdb', 'pyarrow', 'idc-index-data')}")


if __name__ == "__main__":
    main()
