"""Manifest tables in BigQuery, from a server that speaks its Storage API."""

from __future__ import annotations

import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import pyarrow as pa
import pytest

from intake_idc.errors import ManifestError, MissingError, StorageError
from intake_idc.formats import bigquery, frames
from intake_idc.formats.bigquery import table_name

P = "1.3.6.1.4.1.14519.5.2"
URL = "bigquery://a-project.cohorts.manifest_cohort_1"
TABLE = pa.table(
    {
        "PatientID": [f"P{i}" for i in range(10)],
        "SeriesInstanceUID": [f"{P}.{i}" for i in range(9)] + ["x"],
        "access": ["Public"] * 10,
        "idc_version": ["14.0"] * 10,
    }
)


@pytest.mark.parametrize(
    "url",
    [URL, URL.replace(".", "/"), "bigquery://domain.org:a-project.d.t", f"{URL}/"],
)
def test_a_table_is_named_in_several_ways(url):
    name = table_name(url)
    assert name.project.endswith("a-project")
    assert name.path.startswith(f"projects/{name.project}/datasets/")


@pytest.mark.parametrize(
    "url", ["bigquery://", "bigquery://a.b", "bigquery://a.b.c d", "s3://a.b.c"]
)
def test_what_names_no_table_is_refused(url):
    with pytest.raises(ManifestError, match=r"project\.dataset\.table"):
        table_name(url)


def test_a_missing_extra_is_named():
    code = (
        "import sys\n"
        "sys.modules['google.cloud.bigquery_storage_v1'] = None\n"
        "from intake_idc.errors import MissingError\n"
        "from intake_idc.formats import bigquery\n"
        f"try: bigquery.read({URL!r})\n"
        "except MissingError as error: assert 'intake-idc[bigquery]' in str(error)\n"
        "else: raise SystemExit('no error')\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


class Server:
    """BigQuery's Storage API over one table, on loopback."""

    def __init__(self, table: pa.Table) -> None:
        import grpc
        from google.cloud.bigquery_storage_v1 import types

        self.table = table
        self.types = types
        self.asked: list = []
        name = "google.cloud.bigquery.storage.v1.BigQueryRead"
        handlers = {
            "CreateReadSession": grpc.unary_unary_rpc_method_handler(
                self.create,
                types.CreateReadSessionRequest.deserialize,
                types.ReadSession.serialize,
            ),
            "ReadRows": grpc.unary_stream_rpc_method_handler(
                self.rows,
                types.ReadRowsRequest.deserialize,
                types.ReadRowsResponse.serialize,
            ),
        }
        self.server = grpc.server(ThreadPoolExecutor(2))
        generic = grpc.method_handlers_generic_handler(name, handlers)
        self.server.add_generic_rpc_handlers((generic,))
        self.port = self.server.add_insecure_port("127.0.0.1:0")

    def create(self, request, context):
        import grpc

        self.asked.append(request)
        wanted = request.read_session
        if not wanted.table.endswith("/manifest_cohort_1"):
            context.abort(grpc.StatusCode.NOT_FOUND, "no such table")
        self.chosen = self.table.select(
            list(wanted.read_options.selected_fields) or self.table.column_names
        )
        schema = self.chosen.schema.serialize().to_pybytes()
        return self.types.ReadSession(
            name="s",
            table=wanted.table,
            arrow_schema={"serialized_schema": schema},
            streams=[{"name": "s/streams/0"}] if len(self.table) else [],
        )

    def rows(self, request, _context):
        for batch in self.chosen.slice(request.offset).to_batches(max_chunksize=4):
            data = {"serialized_record_batch": batch.serialize().to_pybytes()}
            yield self.types.ReadRowsResponse(
                arrow_record_batch=data, row_count=batch.num_rows
            )


@pytest.fixture
def served():
    """Give a function that serves a table and gives the server and a client of it."""
    storage = pytest.importorskip("google.cloud.bigquery_storage_v1")
    import grpc
    from google.cloud.bigquery_storage_v1.services.big_query_read import transports

    started = []

    def serve(table: pa.Table):
        server = Server(table)
        server.server.start()
        channel = grpc.insecure_channel(f"127.0.0.1:{server.port}")
        transport = transports.BigQueryReadGrpcTransport(channel=channel)
        started.append((server, channel))
        return server, storage.BigQueryReadClient(transport=transport)

    yield serve
    for server, channel in started:
        channel.close()
        server.server.stop(None).wait()


def test_a_table_is_read_by_the_columns_that_name_something(served):
    server, client = served(TABLE)
    listing = bigquery.read(URL, client=client)
    assert listing.names["SeriesInstanceUID"].to_pylist() == [
        f"{P}.{i}" for i in range(9)
    ]
    assert listing.names["line"].to_pylist() == [*range(1, 10)]
    assert listing.names["idc_version"].to_pylist() == [14] * 9
    assert [problem.line for problem in listing.problems] == [10]
    assert "PatientID=P9" in listing.texts([10])[10]
    fields = [
        [*each.read_session.read_options.selected_fields] for each in server.asked
    ]
    assert fields == [[], ["PatientID", "SeriesInstanceUID", "idc_version"]]
    assert server.asked[1].parent == "projects/a-project"


def test_who_pays_may_be_another_project(served):
    server, client = served(TABLE)
    bigquery.read(URL, client=client, project="mine")
    assert server.asked[1].parent == "projects/mine"


def test_an_empty_table_names_nothing(served):
    _, client = served(TABLE.slice(0, 0))
    assert bigquery.read(URL, client=client).names.num_rows == 0


def test_a_table_of_other_columns_is_refused(served):
    _, client = served(TABLE.select(["access"]))
    with pytest.raises(ManifestError, match="no column names"):
        bigquery.read(URL, client=client)


def test_what_bigquery_refuses_is_an_error_of_the_store(served):
    _, client = served(TABLE)
    with pytest.raises(StorageError, match="no such table"):
        bigquery.read(URL.replace("_1", "_2"), client=client)


def test_a_table_of_too_many_rows_is_refused(served, monkeypatch):
    _, client = served(TABLE)
    monkeypatch.setattr(frames, "MOST_ROWS", 5)
    with pytest.raises(ManifestError, match="more than 8 rows"):
        bigquery.read(URL, client=client)


def test_without_credentials_it_is_said_how_to_get_them(monkeypatch, tmp_path):
    pytest.importorskip("google.cloud.bigquery_storage_v1")
    monkeypatch.delenv("GOOGLE_APPLICATION_CREDENTIALS", raising=False)
    monkeypatch.setenv("CLOUDSDK_CONFIG", str(tmp_path))
    monkeypatch.setenv("NO_GCE_CHECK", "true")
    with pytest.raises(MissingError, match="gcloud auth"):
        bigquery.read(URL)
