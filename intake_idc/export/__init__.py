"""The Parquet export of BigQuery: any of its tables, and what comes of them.

The tables of a release as `Export`, rows of objects that are kept with a cohort, and
clinical tables.
"""

from __future__ import annotations

from intake_idc.export.clinical import (
    Clinical,
    ClinicalColumn,
    ClinicalTable,
    clinical_tables,
    open_clinical,
)
from intake_idc.export.lookup import series_of_instances
from intake_idc.export.objects import ObjectTable, series_hash
from intake_idc.export.parquet import ExportFile
from intake_idc.export.tables import Export, open_export

__all__ = [
    "Clinical",
    "ClinicalColumn",
    "ClinicalTable",
    "Export",
    "ExportFile",
    "ObjectTable",
    "clinical_tables",
    "open_clinical",
    "open_export",
    "series_hash",
    "series_of_instances",
]
