"""Write the pinned catalog of each release under ``catalogs/releases/``.

Run it when a release has come out::

    python tools/build_catalogs.py
"""

from __future__ import annotations

from pathlib import Path

from intake_idc import ReleaseInfo, available_releases, display

CATALOGS = Path(__file__).parents[1] / "catalogs"

TEMPLATE = """\
# Release {v} of the Imaging Data Commons, fully pinned: no parameter changes it.
metadata:
  version: 1
  idc_version: {v}
  date: "{date}"
  sureness: {sureness}
name: idc_v{v}
description: "IDC release {v} ({date}): {series} in {collections}, {sureness}"
plugins:
  source:
    - module: intake_idc
sources:
  collections:
    driver: idc
    description: The release, with its collections as entries
    args:
      idc_version: {v}
  index:
    driver: idc_table
    description: One row for each series of the release
    args:
      table: idc_index
      idc_version: {v}
  dicom_all:
    driver: idc_export
    description: One row for each instance of the release, from its Parquet export
    args:
      table: dicom_all
      idc_version: {v}
"""


def catalog(info: ReleaseInfo) -> str:
    """Give the text of one release's catalog."""
    return TEMPLATE.format(
        v=info.idc_version,
        date=info.date,
        sureness=info.sureness,
        series=display.count_text(info.series, "series"),
        collections=display.count_text(info.collections, "collection"),
    )


def main() -> None:
    """Write every catalog."""
    for info in available_releases():
        path = CATALOGS / "releases" / f"v{info.idc_version}.yml"
        path.write_text(catalog(info), encoding="utf-8")


if __name__ == "__main__":
    main()
