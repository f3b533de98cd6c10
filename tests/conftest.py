"""Fixtures that every test may ask for: real object stores, filled with the sample.

The servers start once per session, only when a test asks for them, and are read-only
to the tests. Tests that take one carry ``pytest.mark.servers``.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import settings
from servers import FakeGCS, MotoS3, NginxS3, RcloneS3, on_ci, require

# A shared machine stalls now and then: no deadline. CI repeats the same examples, so
# that a failure there comes from the change; nightly looks for new ones, and many.
settings.register_profile("default", deadline=None, max_examples=50)
settings.register_profile(
    "ci", deadline=None, max_examples=100, derandomize=True, print_blob=True
)
settings.register_profile("nightly", deadline=None, max_examples=2000, print_blob=True)
settings.load_profile(
    os.environ.get("HYPOTHESIS_PROFILE", "ci" if on_ci() else "default")
)


@pytest.fixture(scope="session", autouse=True)
def neutral_environment(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Keep the endpoints, credentials, proxies and caches of whoever runs this out."""
    foreign = ("AWS_", "GOOGLE_", "STORAGE_EMULATOR_HOST", "INTAKE_IDC_")
    with pytest.MonkeyPatch.context() as patch:
        for name in list(os.environ):
            if name.startswith(foreign) and name != "AWS_CA_BUNDLE":
                patch.delenv(name)
        for name in ("NO_PROXY", "no_proxy"):
            patch.setenv(name, "127.0.0.1,localhost")
        patch.setenv("INTAKE_IDC_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="session")
def bucket_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of buckets, ``<bucket>/<series uuid>/<instance uuid>.dcm``.

    The sample lies there twice: under its own name, and under that of IDC's largest
    bucket, which is called the same on both clouds.
    """
    import intake_idc

    sample = Path(next(iter(intake_idc.__path__))) / "sample" / "bucket"
    root = tmp_path_factory.mktemp("buckets")
    for bucket in ("intake-idc-sample", "idc-open-data"):
        shutil.copytree(sample, root / bucket)
    return root


@pytest.fixture(scope="session")
def s3_nginx(bucket_root: Path) -> Iterator[NginxS3]:
    """S3 by nginx over rclone; knows which requests it was sent."""
    require(RcloneS3)
    require(NginxS3)
    with RcloneS3(bucket_root) as storage, NginxS3(storage) as server:
        yield server


@pytest.fixture(scope="session")
def s3_moto(bucket_root: Path) -> Iterator[MotoS3]:
    """S3 by moto: closer to AWS in what it refuses, slower in what it serves."""
    require(MotoS3)
    with MotoS3() as server:
        server.load(bucket_root)
        yield server


@pytest.fixture(scope="session")
def gcs_fake(bucket_root: Path) -> Iterator[FakeGCS]:
    """Google Cloud Storage by fake-gcs-server."""
    require(FakeGCS)
    with FakeGCS(bucket_root) as server:
        yield server
