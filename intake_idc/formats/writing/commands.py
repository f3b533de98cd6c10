"""Manifests that are run, or that other tools take: s5cmd, plain URLs, shell scripts.

No text that comes from outside is run: what stands in a line of a script is quoted, and
what would break a line of a manifest is refused.
"""

from __future__ import annotations

import re
import shlex
from typing import TYPE_CHECKING, Literal

from intake_idc.errors import RequestError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from intake_idc.formats.writing.rows import Rows

__all__ = ["ENDPOINTS", "SCHEMES", "s5cmd", "script", "urls"]

ENDPOINTS = {
    "aws": "https://s3.amazonaws.com",
    "gcs": "https://storage.googleapis.com",
}
SCHEMES = ("s3", "gs", "https")
PLACEHOLDER = "<manifest file name>"
"""What IDC's portal writes where it does not know the name of the file."""

_UNFIT = re.compile(r"[/\0*?\[\]]")
"""Signs that a folder's name cannot have, or that the tools take for a pattern."""

Cloud = Literal["aws", "gcs"]


def s5cmd(
    rows: Rows,
    name: str = PLACEHOLDER,
    *,
    mirror: Cloud = "aws",
    header: bool = True,
) -> Iterator[str]:
    """Give an s5cmd manifest in blocks of whole lines.

    Parameters
    ----------
    rows : Rows
        The rows: ``<series>/*`` of whole series, ``<series>/<instance>.dcm`` of
        instances.
    name : str
        File name, for the command in the header.
    mirror : "aws" or "gcs"
        Whose buckets and endpoint are written.
    header : bool
        Whether to say how to run it, the release and the number of lines.

    Raises
    ------
    RequestError
        The mirror is neither, a series was split, or a name cannot stand in a line.
    """
    endpoint = _endpoint(mirror, "an s5cmd manifest")
    rows.check_whole()
    if header:
        yield "# To download the files in this manifest, install s5cmd "
        yield "(https://github.com/peak/s5cmd),\n"
        yield "# then run the following command:\n"
        command = f"s5cmd --no-sign-request --endpoint-url {endpoint} run"
        yield f"# {command} {_shown(name)}\n"
        yield _said(rows)
    for block in rows.urls("cp s3://", mirror, " .\n"):
        yield "".join(block)


def urls(
    rows: Rows,
    *,
    mirror: Cloud = "aws",
    scheme: str | None = None,
    header: bool = True,
) -> Iterator[str]:
    """Give a list of URLs, one a line, in blocks of whole lines.

    Parameters
    ----------
    rows : Rows
        The rows: ``<series>/*`` of whole series, objects of instances.
    mirror : "aws" or "gcs"
        Whose buckets are named.
    scheme : "s3", "gs" or "https", optional
        By default that of the mirror. s5cmd speaks ``s3`` to both.
    header : bool
        Whether to say the release and the number of lines, in comments.

    Raises
    ------
    RequestError
        Mirror and scheme do not fit together, or do not fit series.
    """
    endpoint = _endpoint(mirror, "a list of URLs")
    rows.check_whole()
    own = {"aws": "s3", "gcs": "gs"}[mirror]
    check_scheme(scheme or own, mirror, rows.level)
    start = f"{endpoint}/" if scheme == "https" else f"{scheme or own}://"
    if header:
        yield _said(rows)
    for block in rows.urls(start, mirror, "\n"):
        yield "".join(block)


def check_scheme(scheme: str, mirror: str, level: str) -> None:
    """Refuse a scheme that does not fit.

    Raises
    ------
    RequestError
        It is unknown, not of the mirror, or names no series.
    """
    if scheme not in SCHEMES:
        msg = f"a scheme is 's3', 'gs' or 'https'; got {scheme!r}"
        raise RequestError(msg, scheme=scheme)
    if scheme == "gs" and mirror != "gcs":
        msg = "gs:// names Google's buckets; give mirror='gcs'"
        raise RequestError(msg, scheme=scheme)
    if scheme == "https" and level == "series":
        msg = "https:// names objects, not series; give level='instance'"
        raise RequestError(msg, scheme=scheme)


def script(rows: Rows, tool: Literal["aws", "gcloud"], name: str = "") -> Iterator[str]:
    """Give a script for a POSIX shell that copies every series to a folder of its own.

    Parameters
    ----------
    rows : Rows
        The rows.
    tool : "aws" or "gcloud"
        Whose command line copies, from that cloud, without credentials.
    name : str
        File name, for the command in the header.

    Raises
    ------
    RequestError
        A series was split, or its name is none for a folder.
    """
    rows.check_whole()
    what = {
        "aws": "the AWS command line (https://aws.amazon.com/cli/)",
        "gcloud": "the Google Cloud CLI (https://cloud.google.com/sdk)",
    }[tool]
    yield "#!/bin/sh\n"
    yield "# To download the files in this manifest to the current folder, install\n"
    yield f"# {what}, then run the following command:\n"
    shown = _shown(name) if name else PLACEHOLDER
    yield f"# sh {shown if '/' in shown or shown == PLACEHOLDER else f'./{shown}'}\n"
    yield _said(rows)
    yield "set -eu\n"
    if tool == "gcloud":
        # Public data; without it gcloud wants somebody to log in.
        variable = "CLOUDSDK_AUTH_DISABLE_CREDENTIALS"
        yield f'export {variable}="${{{variable}:-true}}"\n'
    scheme, buckets = ("s3", "aws") if tool == "aws" else ("gs", "gcs")
    last = None
    for bucket, series, file in rows.places(buckets):
        _check_folder(bucket)
        _check_folder(series)
        folder = shlex.quote(f"./{series}/")
        if file is None:
            yield _whole_series(tool, f"{scheme}://{bucket}/{series}", folder)
            continue
        _check_folder(file)
        if series != last and tool == "gcloud":
            yield f"mkdir -p {folder}\n"
        last = series
        source = shlex.quote(f"{scheme}://{bucket}/{series}/{file}")
        target = shlex.quote(f"./{series}/{file}")
        yield f"{COMMANDS[tool]} {source} {target}\n"


COMMANDS = {
    "aws": "aws s3 cp --no-sign-request",
    "gcloud": "gcloud storage cp",
}


def _whole_series(tool: str, url: str, folder: str) -> str:
    if tool == "aws":
        return f"{COMMANDS[tool]} --recursive {shlex.quote(f'{url}/')} {folder}\n"
    # It makes a folder of the series' name where it is told to copy to.
    return f"{COMMANDS[tool]} --recursive {shlex.quote(url)} ./\n"


def _check_folder(name: str) -> None:
    if name in ("", ".", "..") or _UNFIT.search(name):
        msg = f"a script cannot copy {name!r}, which names no folder or file"
        raise RequestError(msg, name=name)


def _endpoint(mirror: str, what: str) -> str:
    if mirror not in ENDPOINTS:
        msg = f"{what} is for 'aws' or 'gcs'; got {mirror!r}"
        raise RequestError(msg, mirror=mirror)
    return ENDPOINTS[mirror]


def _said(rows: Rows) -> str:
    return (
        f"# IDC Data Version(s): {rows.release}\n# Total records found: {len(rows)}\n"
    )


def _shown(name: str) -> str:
    """Give a file name as a shell takes it; one that would end the line, not at all."""
    if name == PLACEHOLDER or not name.isprintable():
        return PLACEHOLDER
    return shlex.quote(f"./{name}" if name.startswith("-") else name)
