"""Manifest tables in BigQuery, read through its Storage API.

The portal exported cohorts to tables of BigQuery until 2026; users keep copies of them,
and make their own by SQL. A table is named ``bigquery://project.dataset.table``. Unlike
IDC's buckets, BigQuery answers nobody without credentials: they are those of Google's
own tools (application default credentials), or of a client that is given.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, NamedTuple

from intake_idc.errors import ManifestError, MissingError, StorageError
from intake_idc.formats import frames
from intake_idc.formats.columns import known

if TYPE_CHECKING:
    import pyarrow as pa

    from intake_idc.formats import Listing

__all__ = ["TableName", "read", "table_name"]

_PART = r"[A-Za-z0-9_\-]+"
_NAME = re.compile(
    rf"bigquery://((?:{_PART}\.)*{_PART}(?::{_PART})?)[./]({_PART})[./]({_PART})/?"
)


class TableName(NamedTuple):
    """A table of BigQuery."""

    project: str
    dataset: str
    table: str

    @property
    def path(self) -> str:
        """Name as the Storage API has it."""
        return f"projects/{self.project}/datasets/{self.dataset}/tables/{self.table}"


def table_name(url: str) -> TableName:
    """Give the table that a URL names.

    Examples
    --------
    >>> table_name("bigquery://my-project.my_cohorts.manifest_1").dataset
    'my_cohorts'

    Raises
    ------
    ManifestError
        It names none.
    """
    found = _NAME.fullmatch(url.strip())
    if not found:
        msg = f"{url} names no table; expected bigquery://project.dataset.table"
        raise ManifestError(msg, name=url)
    return TableName(*found.groups())


def read(url: str, *, client: Any = None, project: str | None = None) -> Listing:
    """Read a table of BigQuery as a manifest.

    Only the columns that say what a row is are fetched. BigQuery gives rows in no
    order that lasts: the number of a row counts as it came.

    Parameters
    ----------
    url : str
        ``bigquery://project.dataset.table``.
    client : google.cloud.bigquery_storage.BigQueryReadClient, optional
        By default one with Google's application default credentials.
    project : str, optional
        Who pays for the reading; by default the project of the credentials, or of the
        table.

    Raises
    ------
    MissingError
        The extra ``bigquery`` is not installed, or there are no credentials.
    ManifestError
        No column names anything, or there are more rows than are read.
    StorageError
        BigQuery refuses, or does not answer.
    """
    name = table_name(url)
    try:
        from google.api_core.exceptions import GoogleAPIError
        from google.auth.exceptions import GoogleAuthError
        from google.cloud import bigquery_storage_v1 as storage
    except ImportError as error:
        msg = (
            "BigQuery needs google-cloud-bigquery-storage: install intake-idc[bigquery]"
        )
        raise MissingError(msg, package="google-cloud-bigquery-storage") from error
    try:
        if client is None:
            client, own = _client(storage)
            project = project or own
        table = _fetched(storage, client, name, project or name.project, url)
    except GoogleAuthError as error:
        msg = (
            f"{url} cannot be read without credentials ({str(error)[:120]}); log in by "
            "gcloud auth application-default login, or give another kind of manifest"
        )
        raise MissingError(msg, path=url) from error
    except GoogleAPIError as error:
        msg = f"{url} cannot be read: {str(error)[:200]}"
        raise StorageError(msg, path=url) from error
    return frames.read_table(table, url)


def _client(storage: Any) -> tuple[Any, str | None]:
    import google.auth

    scope = "https://www.googleapis.com/auth/bigquery.readonly"
    credentials, project = google.auth.default(scopes=[scope])
    return storage.BigQueryReadClient(credentials=credentials), project


def _fetched(
    storage: Any, client: Any, name: TableName, payer: str, url: str
) -> pa.Table:
    """Fetch the naming columns."""
    import pyarrow as pa

    def opened(fields: list[str]) -> Any:
        wanted = storage.types.ReadSession(
            table=name.path,
            data_format=storage.types.DataFormat.ARROW,
            read_options={"selected_fields": fields},
        )
        return client.create_read_session(
            parent=f"projects/{payer}", read_session=wanted, max_stream_count=1
        )

    # A session costs nothing before rows are read: the first tells the columns.
    schema = _schema(opened([]).arrow_schema.serialized_schema, url)
    fields = [schema.names[column.at] for column in known(schema.names)]
    if not fields:
        return schema.empty_table()
    session = opened(fields)
    schema = _schema(session.arrow_schema.serialized_schema, url)
    batches: list[pa.RecordBatch] = []
    rows = size = 0
    for stream in session.streams:
        for response in client.read_rows(stream.name):
            data = response.arrow_record_batch.serialized_record_batch
            batches.append(_batch(data, schema, url))
            rows += batches[-1].num_rows
            size += batches[-1].nbytes
            if rows > frames.MOST_ROWS or size > frames.LARGEST_NAMES:
                msg = f"{url} has more than {rows:,} rows, or {size:,} bytes of names"
                raise ManifestError(msg, name=url)
    return pa.Table.from_batches(batches, schema)


def _schema(data: bytes, url: str) -> pa.Schema:
    import pyarrow as pa

    try:
        return pa.ipc.read_schema(pa.py_buffer(data))
    except (pa.ArrowException, OSError, ValueError) as error:
        msg = f"{url}: BigQuery's answer is no Arrow schema: {str(error)[:120]}"
        raise StorageError(msg, path=url) from error


def _batch(data: bytes, schema: pa.Schema, url: str) -> pa.RecordBatch:
    import pyarrow as pa

    try:
        batch = pa.ipc.read_record_batch(pa.py_buffer(data), schema)
        batch.validate(full=True)
    except (pa.ArrowException, OSError, ValueError) as error:
        msg = f"{url}: BigQuery's answer is no Arrow data: {str(error)[:120]}"
        raise StorageError(msg, path=url) from error
    return batch
