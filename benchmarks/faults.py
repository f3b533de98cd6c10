"""What a copy says when something is wrong: ours beside idc-index's.

A store on loopback serves one real series of the index, with bytes made up, and does
one thing wrong at a time: a page of its listing lacks half of the objects; an object is
short, is a page of HTML, or is not there. Each client copies the series by its command
for that, as a whole process. Printed are its exit code, how many of the files are
right, and how many lie under their names with wrong bytes.

idc-index always names AWS to the s5cmd that it starts; as in copying.py, a shell script
of two lines that is first on PATH puts the address of the server in its place.

    python benchmarks/faults.py --peer-python build/peer/bin/python
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import uuid
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
from copying import S5CMD_OF, WRAPPER
from servers import Faulty

import intake_idc

BUCKET = "idc-open-data"
SECONDS = 120
"""Seconds after which a client is given up."""
COPY = """
from idc_index import IDCClient
IDCClient().download_from_selection(
    downloadDir={folder!r}, seriesInstanceUID=[{series!r}], show_progress_bar=False
)
"""


def main() -> None:
    """Put every fault to every client, and print one table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--peer-python", required=True, help="Python with idc-index")
    peer = parser.parse_args().peer_python
    found = intake_idc.open_idc().search(aws_bucket=BUCKET)
    row = found.query("instanceCount = 20 AND series_size_MB < 3").table.to_pylist()[0]
    with tempfile.TemporaryDirectory() as text:
        folder = Path(text)
        true = put(folder / "root", row)
        with Faulty(folder / "root") as server:
            program = said_by(peer, S5CMD_OF)
            wrap(folder / "bin" / "s5cmd", server.endpoint, program)
            path = f"{folder / 'bin'}{os.pathsep}{os.environ['PATH']}"
            print("| what is wrong | client | exit | files right | wrong |")
            print("|---|---|---:|---:|---:|")
            for name, rule in faults(row, sorted(true)[3]).items():
                for client, command in clients(peer, row, server.endpoint).items():
                    server.script(*([rule] if rule else []))
                    target = Path(tempfile.mkdtemp(dir=folder))
                    code = ended(command(target), {**os.environ, "PATH": path})
                    files = {p.name: p.read_bytes() for p in target.rglob("*.dcm")}
                    right = sum(files.get(key) == data for key, data in true.items())
                    wrong = len(files) - right
                    count = f"{right} of {len(true)}"
                    print(f"| {name} | {client} | {code} | {count} | {wrong} |")


def put(root: Path, row: dict) -> dict[str, bytes]:
    """Make the objects of a series, as many and as large as the index says."""
    series = root / BUCKET / row["crdc_series_uuid"]
    series.mkdir(parents=True)
    each, rest = divmod(round(row["series_size_MB"] * 1e6), row["instanceCount"])
    true = {}
    for number in range(row["instanceCount"]):
        data = os.urandom(each + (rest if not number else 0))
        true[f"{uuid.UUID(int=number + 1)}.dcm"] = data
    for name, data in true.items():
        (series / name).write_bytes(data)
    return true


def faults(row: dict, victim: str) -> dict[str, dict | None]:
    """Give what goes wrong, as rules of the server."""
    listing = f"list:{row['crdc_series_uuid']}/"
    key = f"{BUCKET}/{row['crdc_series_uuid']}/{victim}"
    gone = {"do": "status", "status": 404, "code": "NoSuchKey"}
    return {
        "nothing": None,
        "half of the listing is left out": {"on": listing, "do": "half", "times": None},
        "an object is cut short": {"on": key, "do": "short", "by": 100, "times": None},
        "an object is a page of HTML": {"on": key, "do": "html", "times": None},
        "an object is not there": {"on": key, "times": None, **gone},
    }


def clients(peer: str, row: dict, endpoint: str) -> dict:
    """Give the command line of each client, for a target."""
    series = row["SeriesInstanceUID"]
    ours = [sys.executable, "-m", "intake_idc", "copy", f"SeriesInstanceUID={series}"]
    ours += ["--mirror", "aws", "--endpoint-url", endpoint, "--to"]
    return {
        "idc-index": lambda target: [
            peer,
            "-c",
            COPY.format(folder=str(target), series=series),
        ],
        "intake-idc": lambda target: [*ours, str(target)],
    }


def said_by(python: str, program: str) -> str:
    """Give what a program prints."""
    done = subprocess.run(
        [python, "-c", program], capture_output=True, text=True, check=True
    )
    return done.stdout.strip()


def wrap(path: Path, endpoint: str, s5cmd: str) -> None:
    """Write the s5cmd that idc-index finds first."""
    path.parent.mkdir()
    path.write_text(WRAPPER.format(endpoint=endpoint, s5cmd=s5cmd), encoding="ascii")
    path.chmod(0o755)


def ended(command: list[str], environment: dict[str, str]) -> str:
    """Run a command to its end; give its exit code."""
    with subprocess.Popen(
        command,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    ) as process:
        try:
            return str(process.wait(SECONDS))
        except subprocess.TimeoutExpired:
            # The session is its own: its group holds what it started.
            os.killpg(process.pid, 9)
            return f"none in {SECONDS} s"


if __name__ == "__main__":
    main()
