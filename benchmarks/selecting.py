"""Time seven questions to release 25 in processes that stay, warm.

Each candidate is a process of its own that has opened the index before. It is asked
one question at a time, in turn with the others (A B C A B C ...), and times itself;
what it found is compared in every round, so that a fast wrong answer never counts.
A look-up asks for another series in every round.

Of idc-index the faster of its two ways counts, its data frame or `sql_query`, for
each question. "DuckDB" reads the Parquet file as it was published; its metadata is
kept between questions. Ours is asked with and without the derived cache, which is made
first, in a folder that is thrown away.

    python benchmarks/selecting.py --peer-python build/peer2/bin/python
"""

import argparse
import json
import math
import os
import platform
import shlex
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from measuring import versions

QUESTIONS = {
    "large": "CT series of nlst",
    "small": "CT series of tcga_luad",
    "point": "one series by SeriesInstanceUID",
    "many": "10,000 series by SeriesInstanceUID",
    "group": "series and bytes of each collection",
    "regex": "series whose description matches an expression",
    "range": "patients from 50 to 60 years",
}
REGEX = "lung.*window|t1.*post"
COLUMNS = ["collection_id", "SeriesInstanceUID", "crdc_series_uuid", "Modality"]
ASKED = 10_000

SERVE = """
import hashlib, json, sys, time
COLUMNS = {columns!r}
REGEX = {regex!r}

def digest(lines):
    return hashlib.sha256("\\n".join(sorted(lines)).encode()).hexdigest()

def serve(ask, names):
    '''Answer questions, one a line; ``names`` turns an answer into its lines.'''
    for line in sys.stdin:
        question, uids = json.loads(line)
        start = time.perf_counter()
        answer = ask(question, uids)
        seconds = time.perf_counter() - start
        lines = names(question, answer)
        print(json.dumps([seconds, len(lines), digest(lines)]), flush=True)
"""

ARROW_NAMES = """
def names(question, table):
    if question == "group":
        rows = zip(*(table[i].to_pylist() for i in range(3)))
        return [f"{c} {n} {round(size)}" for c, n, size in rows]
    return table["SeriesInstanceUID"].to_pylist()
"""

OURS = (
    SERVE
    + """
import re
import pyarrow as pa
import intake_idc
release = intake_idc.open_release(25)
nothing = intake_idc.Selection()

def ask(question, uids):
    where = nothing.where
    match question:
        case "group":
            return release.aggregate(
                "count(*), sum(series_size_MB)", nothing,
                group=["collection_id"], columns=["series_size_MB"],
            )
        case "large":
            selection = where({{"collection_id": "nlst", "Modality": "CT"}})
        case "small":
            selection = where({{"collection_id": "tcga_luad", "Modality": "CT"}})
        case "point" | "many":
            selection = where({{"SeriesInstanceUID": uids}})
        case "regex":
            selection = where({{"SeriesDescription": re.compile(REGEX, re.I)}})
        case "range":
            selection = nothing.query("PatientAge BETWEEN '050Y' AND '060Y'")
    if question == "point":
        return release.rows(COLUMNS, selection)
    return release.table(COLUMNS, selection)

def names(question, answer):
    if question == "group":
        return [f"{{c}} {{n}} {{round(size)}}" for c, n, size in answer]
    if question == "point":
        return [row[1] for row in answer]
    return answer["SeriesInstanceUID"].to_pylist()

serve(ask, names)
"""
)

DUCKDB = (
    SERVE
    + """
from importlib.util import find_spec
from pathlib import Path
import duckdb
import pyarrow as pa
path = Path(find_spec("idc_index_data").origin).with_name("idc_index.parquet")
connection = duckdb.connect()
connection.execute("SET parquet_metadata_cache = true")
SELECT = "SELECT " + ", ".join(COLUMNS) + f" FROM read_parquet('{{path}}') WHERE "

def ask(question, uids):
    match question:
        case "group":
            sql = (
                "SELECT collection_id, count(*), sum(series_size_MB) "
                f"FROM read_parquet('{{path}}') GROUP BY 1"
            )
        case "large":
            sql = SELECT + "collection_id = 'nlst' AND Modality = 'CT'"
        case "small":
            sql = SELECT + "collection_id = 'tcga_luad' AND Modality = 'CT'"
        case "point":
            sql = SELECT + f"SeriesInstanceUID = '{{uids[0]}}'"
        case "many":
            connection.register("asked", pa.table({{"uid": uids}}))
            sql = SELECT + "SeriesInstanceUID IN (SELECT uid FROM asked)"
        case "regex":
            sql = SELECT + f"regexp_matches(SeriesDescription, '(?i){{REGEX}}')"
        case "range":
            sql = SELECT + "PatientAge BETWEEN '050Y' AND '060Y'"
    return connection.sql(sql).to_arrow_table()
"""
    + ARROW_NAMES.replace("{", "{{").replace("}", "}}")
    + """
serve(ask, names)
"""
)

FRAME = (
    SERVE
    + """
from idc_index import IDCClient
index = IDCClient().index

def ask(question, uids):
    match question:
        case "group":
            return index.groupby("collection_id").agg(
                n=("SeriesInstanceUID", "size"), size=("series_size_MB", "sum")
            )
        case "large":
            found = (index.collection_id == "nlst") & (index.Modality == "CT")
        case "small":
            found = (index.collection_id == "tcga_luad") & (index.Modality == "CT")
        case "point":
            found = index.SeriesInstanceUID == uids[0]
        case "many":
            found = index.SeriesInstanceUID.isin(uids)
        case "regex":
            found = index.SeriesDescription.str.contains(
                REGEX, case=False, na=False, regex=True
            )
        case "range":
            found = index.PatientAge.between("050Y", "060Y")
    return index.loc[found, COLUMNS]

def names(question, frame):
    if question == "group":
        return [f"{{c}} {{n}} {{round(size)}}" for c, n, size in frame.itertuples()]
    return list(frame["SeriesInstanceUID"])

serve(ask, names)
"""
)

SQL_QUERY = (
    SERVE
    + """
from idc_index import IDCClient
client = IDCClient()
SELECT = "SELECT " + ", ".join(COLUMNS) + " FROM index WHERE "

def ask(question, uids):
    match question:
        case "group":
            sql = (
                "SELECT collection_id, count(*) AS n, sum(series_size_MB) AS size "
                "FROM index GROUP BY 1"
            )
        case "large":
            sql = SELECT + "collection_id = 'nlst' AND Modality = 'CT'"
        case "small":
            sql = SELECT + "collection_id = 'tcga_luad' AND Modality = 'CT'"
        case "point":
            sql = SELECT + f"SeriesInstanceUID = '{{uids[0]}}'"
        case "many":
            listed = ", ".join(f"'{{uid}}'" for uid in uids)
            sql = SELECT + f"SeriesInstanceUID IN ({{listed}})"
        case "regex":
            sql = SELECT + f"regexp_matches(SeriesDescription, '(?i){{REGEX}}')"
        case "range":
            sql = SELECT + "PatientAge BETWEEN '050Y' AND '060Y'"
    return client.sql_query(sql)

def names(question, frame):
    if question == "group":
        rows = frame.itertuples(index=False)
        return [f"{{c}} {{n}} {{round(size)}}" for c, n, size in rows]
    return list(frame["SeriesInstanceUID"])

serve(ask, names)
"""
)

SAMPLE = """
import json
import intake_idc
keys = intake_idc.open_idc(25).all().keys()
print(json.dumps(keys[:: len(keys) // {asked}][:{asked}]))
"""


class Worker:
    """One candidate: a process that has opened the index and answers questions."""

    def __init__(self, name: str, python: str, script: str, cache: str = "off") -> None:
        self.name = name
        text = script.format(columns=COLUMNS, regex=REGEX)
        self._folder = tempfile.TemporaryDirectory()
        self._process = subprocess.Popen(
            [python, "-c", text],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=self._folder.name,
            env={**os.environ, "INTAKE_IDC_CACHE": cache},
        )

    def ask(self, question: str, uids: list[str]) -> tuple[float, int, str]:
        """Give the seconds that a question took, and the number and digest of rows.

        Raises
        ------
        SystemExit
            The process ended.
        """
        sent, received = self._process.stdin, self._process.stdout
        if sent is None or received is None:
            raise SystemExit(f"{self.name} has no pipes")
        sent.write(json.dumps([question, uids]) + "\n")
        sent.flush()
        line = received.readline()
        if not line:
            raise SystemExit(f"{self.name} ended at {question!r}")
        seconds, rows, digest = json.loads(line)
        return seconds, rows, digest

    def close(self) -> None:
        """End the process."""
        if self._process.stdin is not None:
            self._process.stdin.close()
        self._process.wait()
        self._folder.cleanup()


def measure(
    workers: list[Worker], uids: list[str], rounds: int
) -> tuple[dict[str, list[list[float]]], dict[str, int]]:
    """Ask every question of every worker in turn.

    Returns
    -------
    dict, dict
        By question: seconds, a list for each round, and the number of rows.

    Raises
    ------
    SystemExit
        Two workers found different rows.
    """
    seconds: dict[str, list[list[float]]] = {question: [] for question in QUESTIONS}
    found: dict[str, int] = {}
    for number in range(rounds + 1):
        for question in QUESTIONS:
            asked = uids if question == "many" else [uids[number * 97 % len(uids)]]
            answers = [worker.ask(question, asked) for worker in workers]
            if len({answer[1:] for answer in answers}) != 1:
                told = {w.name: a[1] for w, a in zip(workers, answers, strict=True)}
                raise SystemExit(f"{question}: the answers differ: {told}")
            found[question] = answers[0][1]
            if number:
                seconds[question].append([answer[0] for answer in answers])
        print(f"round {number}", file=sys.stderr, flush=True)
    return seconds, found


def table(
    workers: list[Worker], seconds: dict[str, list[list[float]]], found: dict[str, int]
) -> str:
    """Medians in milliseconds, and the medians of our ratios, as a Markdown table."""
    names = [worker.name for worker in workers]
    peers = [i for i, name in enumerate(names) if name.startswith("idc-index")]
    cached, bare = names.index("intake-idc, cache"), names.index("DuckDB")
    titles = ["question", "rows", *names, "cache / idc-index", "cache / DuckDB"]
    rule = "|---" + "|---:" * (len(titles) - 1) + "|"
    lines = ["| " + " | ".join(titles) + " |", rule]
    logs: dict[str, list[float]] = {"peer": [], "bare": []}
    for question, rounds in seconds.items():
        medians = [statistics.median(each) for each in zip(*rounds, strict=True)]
        cells = [QUESTIONS[question], f"{found[question]:,}"]
        cells += [f"{1000 * median:.2f}" for median in medians]
        best = min(peers, key=lambda i: medians[i], default=None)
        for kind, other in (("peer", best), ("bare", bare)):
            if other is None:
                cells.append("-")
                continue
            ratio = statistics.median(each[cached] / each[other] for each in rounds)
            logs[kind].append(math.log(ratio))
            cells.append(f"{ratio:.3f}")
        lines.append("| " + " | ".join(cells) + " |")
    means = [
        f"{math.exp(statistics.mean(logs[kind])):.3f}" if logs[kind] else "-"
        for kind in ("peer", "bare")
    ]
    blank = [""] * (1 + len(names))
    lines.append("| " + " | ".join(["geometric mean", *blank, *means]) + " |")
    return "\n".join(lines)


def main() -> None:
    """Measure and print one table with the command that gave it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--peer-python", metavar="PATH", help="Python of an environment with idc-index"
    )
    parser.add_argument(
        "--python", default=sys.executable, help="Python that has intake-idc"
    )
    parser.add_argument("--rounds", type=int, default=9, help="at least 5")
    arguments = parser.parse_args()
    if arguments.rounds < 5:  # noqa: PLR2004 - a median of fewer says little
        parser.error("--rounds must be at least 5")

    python, peer, before = arguments.python, arguments.peer_python, os.getloadavg()[0]
    with tempfile.TemporaryDirectory() as cache:
        build = "import intake_idc; intake_idc.build_cache()"
        environment = {**os.environ, "INTAKE_IDC_CACHE": cache}
        subprocess.run([python, "-c", build], check=True, env=environment)
        size = sum(f.stat().st_size for f in Path(cache).rglob("derived/*"))
        sample = SAMPLE.format(asked=ASKED)
        uids = json.loads(subprocess.check_output([python, "-c", sample], text=True))
        workers = [
            Worker("intake-idc, cache", python, OURS, cache),
            Worker("intake-idc", python, OURS),
            Worker("DuckDB", python, DUCKDB),
        ]
        notes = [f"- ours: {versions(python, 'duckdb', 'pyarrow', 'idc-index-data')}"]
        if peer is not None:
            workers += [
                Worker("idc-index, data frame", peer, FRAME),
                Worker("idc-index, sql_query", peer, SQL_QUERY),
            ]
            notes.append(f"- peer: {versions(peer, 'idc-index', 'pandas', 'duckdb')}")
        try:
            seconds, found = measure(workers, uids, arguments.rounds)
        finally:
            for worker in workers:
                worker.close()
    print(table(workers, seconds, found))
    command = shlex.join(["python", Path(sys.argv[0]).as_posix(), *sys.argv[1:]])
    print(f"\nMilliseconds. `{command}`; {arguments.rounds} rounds in turn after a")
    print("warm-up, medians; every round gave the same rows from every process;")
    print(
        f"derived cache {size / 1e6:.0f} MB; {platform.machine()}, {os.cpu_count()} "
        f"cores, load {before:.1f} before and {os.getloadavg()[0]:.1f} after."
    )
    print(*notes, sep="\n")


if __name__ == "__main__":
    main()
