"""Time reading a manifest of a million lines, as whole cold processes.

The manifest is made first: an s5cmd command for 1,000,000 series of release 25, in an
order of chance, under the portal's header. Each candidate is a Python program of its
own, from exec to exit, that prints how many series of the index the lines name, and
where it says so the megabytes of them. The candidates run in turn, A B C A B C ...,
after one round that warms the page cache and does not count. In every round all counts
must be the same, and all megabytes too, so that a fast wrong answer never counts.

"count lines" reads the file and counts its line feeds, and does no more: what nobody
can be faster than. idc-index has no call of its own for reading a manifest; the one
measured here is what `download_from_manifest` does before it downloads.

Wall is from start to exit; CPU is user + system; RSS is its peak. Each figure is a
median over the rounds. Each ratio is the median of the ratios within a round: ours over
the line it stands in, so below 1 we are the faster or the smaller.

    python benchmarks/manifests.py --peer-python build/peer/bin/python
"""

import os
import platform
import shlex
import sys
import tempfile
from functools import partial
from pathlib import Path

from measuring import Candidate, Run, measure, median, options, ratio, run, versions

LINES = 1_000_000

# In a process of its own: the kernel would carry its memory over to the candidates.
WRITE = """
import random
from importlib.util import find_spec
from pathlib import Path
import pyarrow.parquet as pq
table = pq.read_table(
    Path(find_spec("idc_index_data").origin).with_name("idc_index.parquet"),
    columns=["aws_bucket", "crdc_series_uuid"],
)
columns = (table.column(name).to_pylist() for name in table.column_names)
rows = list(zip(*columns, strict=True))
random.Random(25).shuffle(rows)
with open({path!r}, "w") as file:
    file.write("# To download the files in this manifest, first install s5cmd\\n")
    for bucket, uuid in rows[:{lines}]:
        file.write(f"cp s3://{{bucket}}/{{uuid}}/* .\\n")
"""

NOTHING = "pass"

COUNT = """
with open({path!r}, "rb") as file:
    print(sum(block.count(b"\\n") for block in iter(lambda: file.read(1 << 20), b"")))
"""

OURS = """
import intake_idc
print(len(intake_idc.open_manifest({path!r}, idc_version=25)))
"""

COUNTED = """
import intake_idc
counts = intake_idc.open_manifest({path!r}, idc_version=25).counts()
print(counts["series"], round(counts["bytes"] / 1e6))
"""

PANDAS = """
from importlib.util import find_spec
from pathlib import Path
import pandas as pd
lines = pd.read_csv({path!r}, comment="#", header=None, names=["line"])["line"]
uuids = lines.str.extract(r"s3://[^/]+/([0-9a-f-]{{36}})/", expand=False).rename("uuid")
table = Path(find_spec("idc_index_data").origin).with_name("idc_index.parquet")
index = pd.read_parquet(table, columns=["crdc_series_uuid", "series_size_MB"])
found = index.merge(uuids, left_on="crdc_series_uuid", right_on="uuid")
print(len(found), round(found["series_size_MB"].sum()))
"""

PEER = """
import tempfile
from idc_index import IDCClient
client = IDCClient()
with tempfile.TemporaryDirectory() as folder:
    found = client._validate_update_manifest_and_get_download_size(
        {path!r}, folder, True, False, None
    )
    print(len(found[4]), round(found[0]))
"""


def check(candidates: list[Candidate], runs: list[Run]) -> None:
    """Refuse a round in which somebody found another number of series, or bytes.

    Raises
    ------
    SystemExit
        An answer is not that of the others.
    """
    for candidate, each in zip(candidates, runs, strict=True):
        if not candidate.selects:
            continue
        if str(LINES) not in each.answer:
            raise SystemExit(f"{candidate.name}: {sorted(each.answer)}, not {LINES}")
    sizes = {word for each in runs for word in each.answer if int(word) > LINES + 1}
    if len(sizes) != 1:
        raise SystemExit(f"the megabytes differ: {sorted(sizes)}")


def table(candidates: list[Candidate], measured: list[list[Run]]) -> str:
    """Medians and ratios as a Markdown table."""
    ours = [c.name for c in candidates].index("intake-idc")
    middle, over = partial(median, measured), partial(ratio, measured)
    lines = [
        (
            "| program | wall s | CPU s | peak RSS MiB "
            "| ours / this, wall | ours / this, CPU | ours / this, RSS |"
        ),
        "|---|---:|---:|---:|---:|---:|---:|",
    ]
    lines.extend(
        f"| {candidate.name} | {middle(i, 'wall'):.3f} | {middle(i, 'cpu'):.3f} "
        f"| {middle(i, 'rss'):.0f} | {over(ours, i, 'wall'):.3f} "
        f"| {over(ours, i, 'cpu'):.3f} | {over(ours, i, 'rss'):.3f} |"
        for i, candidate in enumerate(candidates)
    )
    return "\n".join(lines)


def main() -> None:
    """Measure and print one table with the command that gave it."""
    arguments = options(__doc__)
    python = arguments.python
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "million.s5cmd"
        script = WRITE.format(path=str(path), lines=LINES)
        run(Candidate("the manifest", python, script, selects=False))

        def text(script: str) -> str:
            return script.format(path=str(path))

        candidates = [
            Candidate("`python -c pass`", python, NOTHING, selects=False),
            Candidate("count lines", python, text(COUNT), selects=False),
            Candidate("intake-idc", python, text(OURS)),
            Candidate("intake-idc, with counts", python, text(COUNTED)),
            Candidate("pandas over the parquet", python, text(PANDAS)),
        ]
        notes = [
            f"- ours: {versions(python, 'intake-idc', 'duckdb', 'idc-index-data')}",
            f"- pandas: {versions(python, 'pandas', 'pyarrow')}",
        ]
        for peer in arguments.peer_python:
            pandas = versions(peer, "pandas").rpartition(", ")[2]
            candidates.append(Candidate(f"idc-index with {pandas}", peer, text(PEER)))
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
        f"every round found the same {LINES:,} series; {platform.machine()}, "
        f"{os.cpu_count()} cores, load {before:.1f} before and "
        f"{os.getloadavg()[0]:.1f} after."
    )
    print()
    print(*notes, sep="\n")


if __name__ == "__main__":
    main()
