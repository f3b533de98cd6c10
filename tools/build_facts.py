"""Record what the published index packages hold, and where rebuilding differs.

The package ``idc-index-data`` of each IDC release is the truth about its series.
This reads those packages, rebuilds the same releases from the newest one, and
writes ``releases.json`` and ``exceptions.json`` under ``intake_idc/facts/``::

    pip download --no-deps -d wheels idc-index-data==24.2.2   # and so on, 17 to 25
    python tools/build_facts.py wheels/*.whl
"""

from __future__ import annotations

import hashlib
import json
import sys
import tempfile
import zipfile
from collections import defaultdict
from pathlib import Path
from typing import Any

import duckdb

FACTS = Path(__file__).parents[1] / "intake_idc" / "facts"
TABLES = ("idc_index", "prior_versions_index", "version_metadata_index")


class Package:
    """One published package, unpacked."""

    def __init__(self, wheel: Path, folder: Path) -> None:
        self.version = wheel.name.split("-")[1]
        self.idc_version = int(self.version.split(".")[0])
        with zipfile.ZipFile(wheel) as archive:
            for table in TABLES:
                name = f"idc_index_data/{table}.parquet"
                if name in archive.namelist():
                    archive.extract(name, folder / self.version)
        self.folder = folder / self.version / "idc_index_data"
        self.connection = duckdb.connect()
        columns = self.connection.execute(
            f"DESCRIBE SELECT * FROM '{self.folder}/idc_index.parquet'"
        ).fetchall()
        self.columns = [row[0] for row in columns]
        # Before release 20 the uuid is only inside the URL.
        self.uuid = (
            "crdc_series_uuid"
            if "crdc_series_uuid" in self.columns
            else "split_part(series_aws_url, '/', 4)"
        )

    def query(self, sql: str) -> list[tuple[Any, ...]]:
        """Run a query in which INDEX and PRIOR stand for the tables."""
        tables = {"INDEX": "idc_index", "PRIOR": "prior_versions_index"}
        for word, table in tables.items():
            path = f"read_parquet('{self.folder}/{table}.parquet')"
            sql = sql.replace(f"FROM {word}", f"FROM {path}")
        return self.connection.execute(sql).fetchall()

    def uuids(self) -> set[str]:
        """Give the series of the package."""
        return {row[0] for row in self.query(f"SELECT {self.uuid} FROM INDEX")}

    def rebuilt(self, idc_version: int) -> set[str]:
        """Give the series of an older release, by the rule."""
        found = self.query(
            "SELECT crdc_series_uuid FROM INDEX "
            f"WHERE series_revised_idc_version <= {idc_version} "
            "UNION SELECT crdc_series_uuid FROM PRIOR "
            f"WHERE {idc_version} BETWEEN min_idc_version AND max_idc_version"
        )
        return {row[0] for row in found}

    def dates(self) -> dict[str, str]:
        """Give the day on which each release came out."""
        path = self.folder / "version_metadata_index.parquet"
        sql = f"SELECT idc_version, version_timestamp FROM '{path}' ORDER BY 1"
        found = self.connection.execute(sql).fetchall()
        return {str(version): str(day)[:10] for version, day in found}

    def row(self, uuid: str) -> dict[str, Any]:
        """Give one row of the package's index, nulls left out."""
        values = self.query(f"SELECT * FROM INDEX WHERE {self.uuid} = '{uuid}'")[0]
        row = {
            name: value
            for name, value in zip(self.columns, values, strict=True)
            if value is not None
        }
        row["crdc_series_uuid"] = uuid
        row["aws_bucket"] = row["series_aws_url"].split("/")[2]
        return row


def digests(uuids: set[str]) -> dict[str, Any]:
    """Give the count and the two digests of a set of series.

    ``xor`` is the XOR of the 128-bit MD5 of each uuid's text, as DuckDB's
    ``bit_xor(md5_number(crdc_series_uuid))`` computes it: ``md5_number`` reads the
    16 bytes of the digest with the last byte as the highest.
    """
    xor = 0
    for uuid in uuids:
        digest = hashlib.md5(uuid.encode(), usedforsecurity=False).digest()
        xor ^= int.from_bytes(digest, "little")
    text = "\n".join(sorted(uuids)).encode()
    sha256 = hashlib.sha256(text).hexdigest()
    return {"series": len(uuids), "sha256": sha256, "xor": f"{xor:032x}"}


def main(wheels: list[str]) -> None:
    """Read the packages and write both files."""
    with tempfile.TemporaryDirectory() as folder:
        packages = [Package(Path(wheel), Path(folder)) for wheel in wheels]
        packages.sort(key=lambda package: package.idc_version)
        newest = packages[-1]
        releases: dict[str, Any] = {}
        rebuilt_only: dict[str, list[int]] = defaultdict(list)
        published_only: dict[str, dict[str, Any]] = {}
        for package in packages:
            published = package.uuids()
            fact = {"package": package.version, **digests(published)}
            releases[str(package.idc_version)] = fact
            if package is newest:
                continue
            rebuilt = newest.rebuilt(package.idc_version)
            for uuid in sorted(rebuilt - published):
                rebuilt_only[uuid].append(package.idc_version)
            for uuid in sorted(published - rebuilt):
                row = published_only.setdefault(uuid, package.row(uuid))
                row.setdefault("versions", []).append(package.idc_version)
        groups: dict[tuple[str, tuple[int, ...]], list[str]] = defaultdict(list)
        for uuid, versions in rebuilt_only.items():
            collection = newest.row(uuid)["collection_id"]
            groups[collection, tuple(versions)].append(uuid)
    write("releases.json", {
        "note": "What the published idc-index-data package of each release holds: "
        "number of series; SHA-256 over the sorted crdc_series_uuids, one a line, "
        "no final newline; XOR of the MD5 of each uuid. The days on which the releases "
        "came out are those of version_metadata_index.",
        "releases": releases,
        "dates": newest.dates(),
    })  # fmt: skip
    write("exceptions.json", {
        "note": f"Where rebuilding from idc-index-data {newest.version} differs from "
        "the published package of a release: series that the rule puts there wrongly, "
        "and rows that the tables have forgotten.",
        "rebuilt_only": [
            {
                "collection_id": collection,
                "versions": list(versions),
                "crdc_series_uuid": uuids,
            }
            for (collection, versions), uuids in groups.items()
        ],
        "published_only": list(published_only.values()),
    })  # fmt: skip


def write(name: str, data: dict[str, Any]) -> None:
    """Write one file of facts."""
    text = json.dumps(data, indent=1, ensure_ascii=False) + "\n"
    (FACTS / name).write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1:])
