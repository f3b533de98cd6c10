"""Mirrors: the places that hold IDC's objects under the same keys."""

from __future__ import annotations

import functools
import math
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args
from urllib.parse import urlsplit

from intake_idc import credentials
from intake_idc.errors import MirrorError, nearest
from intake_idc.manifest import gcs_bucket
from intake_idc.storage.kept import ObjectCache, object_cache
from intake_idc.storage.retrying import RETRY_SECONDS

if TYPE_CHECKING:
    from intake_idc.manifest import Part

__all__ = ["AnyMirror", "EngineName", "Mirror", "resolve_mirror"]

EngineName = Literal["obstore", "fsspec", "s5cmd"]

READ_SECONDS = 30.0
"""Seconds that a store may be silent in the middle of an answer."""

MIRROR_VARIABLE = "INTAKE_IDC_MIRROR"
"""Environment variable that names the mirror where no argument does."""

_ENDPOINT_VARIABLES = {
    "s3": ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL"),
    "gs": ("STORAGE_EMULATOR_HOST",),
}
"""Environment variables that the stores' own tools read for an endpoint."""


def _check_port(url: str, what: str) -> None:
    """Refuse a URL with a port that none is; transports have no error for it."""
    try:
        port = urlsplit(url).port
    except ValueError as error:
        msg = f"the {what} {url!r} is no URL: {error}"
        raise MirrorError(msg) from error
    if port == 0:
        msg = f"the {what} {url!r} is no URL: there is no port 0"
        raise MirrorError(msg)


@dataclass(frozen=True)
class Mirror:
    """A place that holds IDC's objects as ``<root>/<crdc_series_uuid>/*.dcm``.

    A mirror is a value without secrets: it travels in Dask graphs and catalogs.
    Access is anonymous. For a place that needs credentials set ``anon`` to False;
    each process then finds them where the store's own tools do.
    """

    name: str
    """Short name, as reports show it."""
    root: str
    """URL or folder; ``{aws_bucket}`` and ``{gcs_bucket}`` stand for the bucket."""
    endpoint_url: str | None = None
    """Address of the store, for S3 and GCS; None is the public one."""
    engine: EngineName | None = None
    """What carries the bytes; None takes the faster one that can. ``s5cmd`` carries
    those of a copy, and the faster one the others."""
    anon: bool = True
    """Whether requests go unsigned."""
    storage_options: tuple[tuple[str, Any], ...] = ()
    """Further arguments for the fsspec file system."""
    read_timeout: float = READ_SECONDS
    """Seconds that the store may be silent in the middle of an answer."""
    retry_timeout: float = RETRY_SECONDS
    """Seconds that a store is waited for which served before."""
    cache: ObjectCache | None = None
    """Where objects are kept that were read; of this machine, and so in no catalog."""
    among: tuple[Mirror, ...] = ()
    """Mirrors that stand in for each other, in the order in which they are asked; of
    a single mirror none. What the others have said of them is that of the first."""
    place: int | None = None
    """Of one among several its place; it is then given up sooner."""

    def __post_init__(self) -> None:
        credentials.refuse_in_url(self.root, "mirror")
        credentials.refuse_in_url(self.endpoint_url or "", "endpoint")
        _check_port(self.root, "mirror")
        _check_port(self.endpoint_url or "", "endpoint")
        credentials.refuse_in_options(self.storage_options)

    def __hash__(self) -> int:
        # Options may hold dicts.
        return hash((self.root, self.endpoint_url, self.engine, self.anon, self.among))

    @property
    def every(self) -> tuple[Mirror, ...]:
        """The mirrors that may serve, each by itself; a single mirror is its own."""
        return _every(self)

    @property
    def scheme(self) -> str:
        """Protocol of the root: ``s3``, ``gs``, ``file``, ..."""
        return self.root.split("://", 1)[0] if "://" in self.root else "file"

    def bucket_root(self, aws_bucket: str) -> str:
        """Give the URL or folder under which the series of a bucket lie."""
        return self.root.replace("{aws_bucket}", aws_bucket).replace(
            "{gcs_bucket}", gcs_bucket(aws_bucket)
        )

    def tag(self, etag: str | None) -> str | None:
        """Give an entity tag that it told; of another than the first with its name."""
        return f"{self.name} {etag}" if self.place and etag else etag

    def to_arguments(self) -> dict[str, Any]:
        """Give plain data that `resolve_mirror` turns into this mirror again.

        It is written down for others, so the cache is not in it: what they open must
        not write into a folder of theirs that we name.
        """
        if self.among:
            same = self.among == _AUTO
            listed = [mirror.to_arguments() for mirror in self.among]
            return {"mirror": "auto" if same else listed}
        known = self.name in (*_PUBLIC, "sample")
        arguments: dict[str, Any] = {"mirror": self.name if known else self.root}
        if self.endpoint_url:
            arguments["endpoint_url"] = self.endpoint_url
        if self.engine:
            arguments["engine"] = self.engine
        options = dict(self.storage_options)
        if not self.anon:
            options["anon"] = False
        for name, usual in _SECONDS.items():
            if getattr(self, name) != usual:
                options[name] = getattr(self, name)
        if options:
            arguments["storage_options"] = options
        return arguments

    def series_url(self, part: Part) -> str:
        """Give the URL of a series' folder, with a slash at the end."""
        return f"{self.bucket_root(part.aws_bucket)}/{part.crdc_series_uuid}/"


_SECONDS = {"read_timeout": READ_SECONDS, "retry_timeout": RETRY_SECONDS}

AWS = Mirror("aws", "s3://{aws_bucket}")
GCS = Mirror("gcs", "gs://{gcs_bucket}")
_WRITING = ("blockcache", "cached", "filecache", "simplecache")
"""Protocols of fsspec that write to a folder, which a catalog could name."""
_PUBLIC = {"aws": AWS, "gcs": GCS}
_AUTO = (AWS, GCS)
_ENGINES = get_args(EngineName)

AnyMirror = (
    str
    | os.PathLike[str]
    | Mirror
    | Sequence[str | os.PathLike[str] | Mirror | Mapping[str, Any]]
)
"""What a mirror is called by: a name, a folder, a URL, itself, or a list of such, in
which arguments of `resolve_mirror` may stand for one."""


@functools.lru_cache(maxsize=64)
def _every(mirror: Mirror) -> tuple[Mirror, ...]:
    return tuple(
        replace(one, place=place, cache=mirror.cache)
        for place, one in enumerate(mirror.among)
    ) or (mirror,)


def resolve_mirror(
    mirror: AnyMirror | None = None,
    *,
    endpoint_url: str | None = None,
    engine: EngineName | None = None,
    storage_options: Mapping[str, Any] | None = None,
    cache: str | os.PathLike[str] | ObjectCache | None = None,
    cache_size: int | str | None = None,
    environment: bool = True,
) -> Mirror:
    """Turn what a user says about a mirror into a `Mirror`.

    Parameters
    ----------
    mirror : str, path, Mirror, list of them, or None
        ``"aws"``, ``"gcs"``, ``"sample"``, a folder, or a URL that fsspec reads, in
        which ``{aws_bucket}`` and ``{gcs_bucket}`` stand for the bucket. None takes
        the environment variable ``INTAKE_IDC_MIRROR``, else ``"aws"``. Of a list
        another serves where one fails; ``"auto"`` is ``["aws", "gcs"]``. In a list a
        dict of these arguments may stand for a mirror.
    endpoint_url : str, optional
        Address of an S3 or GCS server. Without it, the variables of those stores'
        own tools count: ``AWS_ENDPOINT_URL_S3``, ``AWS_ENDPOINT_URL``,
        ``STORAGE_EMULATOR_HOST``.
    engine : "obstore", "fsspec" or "s5cmd", optional
        What carries the bytes. obstore serves S3 and GCS, fsspec everything. s5cmd
        carries those of a copy from S3 and GCS, where it is installed.
    storage_options : dict, optional
        Further arguments for the fsspec file system. Secrets are refused here;
        ``{"anon": False}`` lets each process find its own credentials. Of any mirror,
        ``read_timeout`` (30) is the seconds that the store may be silent, and
        ``retry_timeout`` (90) those that it is waited for once it has served.
    cache : str, path or ObjectCache, optional
        A folder of this machine in which objects that were read are kept, for whoever
        reads them next. None takes the environment variable
        ``INTAKE_IDC_OBJECT_CACHE``, but for a mirror that is a folder itself. Never
        take it from a file that somebody else wrote.
    cache_size : int or str, optional
        Bytes that it may hold, such as ``"50GB"``; by default as
        ``INTAKE_IDC_OBJECT_CACHE_SIZE`` says, else 20 GB.
    environment : bool
        Whether an endpoint and a cache that nothing names are looked for in the
        environment. What is written down for others leaves them out.

    Raises
    ------
    MirrorError
        The mirror is unknown, the folder does not exist, the engine cannot serve
        it, or an option carries a secret.
    RequestError
        The cache is no folder, or has no size.
    """
    among = _among(mirror)
    if among:
        return _several(
            among,
            cache=object_cache(
                cache,
                cache_size,
                found=mirror.cache if isinstance(mirror, Mirror) else None,
                environment=environment,
            ),
            endpoint_url=endpoint_url,
            engine=engine,
            storage_options=storage_options,
            environment=environment,
        )
    found = mirror if isinstance(mirror, Mirror) else _by_name(_named(mirror))
    options, anon = dict(found.storage_options), found.anon
    given = dict(storage_options or {})
    if "anon" in given:
        anon = given.pop("anon")
        if not isinstance(anon, bool):
            msg = f"anon is True or False; got {anon!r}"
            raise MirrorError(msg)
    seconds = {name: _seconds(name, given) for name in _SECONDS if name in given}
    endpoint_url = endpoint_url or given.pop("endpoint_url", None)
    credentials.refuse_in_options(given)
    options |= given
    endpoint = endpoint_url or found.endpoint_url
    if endpoint is None and environment:
        endpoint = _endpoint(found.scheme)
    _check_endpoint(endpoint, found)
    carrier = engine or found.engine
    if carrier not in (None, *_ENGINES):
        msg = f"engine is one of {', '.join(_ENGINES)}; got {carrier!r}"
        raise MirrorError(msg, engine=carrier)
    if carrier in ("obstore", "s5cmd") and found.scheme not in ("s3", "gs"):
        msg = f"{carrier} serves s3:// and gs://; use engine='fsspec' for {found.root}"
        raise MirrorError(msg, engine=carrier)
    if carrier == "obstore" and (options or not anon):
        msg = (
            "obstore reads anonymously and takes no options of fsspec's; use "
            f"engine='fsspec' with {sorted(options) or 'anon=False'}"
        )
        raise MirrorError(msg, engine=carrier)
    return replace(
        found,
        endpoint_url=endpoint,
        engine=carrier,
        anon=anon,
        storage_options=tuple(sorted(options.items())),
        read_timeout=seconds.get("read_timeout", found.read_timeout),
        retry_timeout=seconds.get("retry_timeout", found.retry_timeout),
        cache=object_cache(
            cache,
            cache_size,
            found=found.cache,
            environment=environment and found.scheme != "file",
        ),
    )


def _among(mirror: object) -> list[Any]:
    """Give the mirrors of which several are meant; none where it is a single one."""
    if mirror is None and os.environ.get(MIRROR_VARIABLE) == "auto":
        mirror = "auto"
    if isinstance(mirror, Mirror):
        return list(mirror.among)
    if mirror == "auto":
        return [*_AUTO]
    if not isinstance(mirror, list | tuple):
        return []
    among = [inner for one in mirror for inner in _among(one) or [one]]
    if not among:
        msg = f"a list of mirrors names some; got {mirror!r}"
        raise MirrorError(msg)
    return among


def _several(
    among: list[Any],
    *,
    cache: ObjectCache | None,
    endpoint_url: str | None,
    **options: Any,
) -> Mirror:
    """Give the mirror that stands for several."""
    if endpoint_url is not None:
        msg = (
            "an endpoint is of one mirror; of several give each its own, as "
            "[resolve_mirror('aws', endpoint_url=...), ...]"
        )
        raise MirrorError(msg, endpoint_url=endpoint_url)
    found: list[Mirror] = []
    for one in among:
        if isinstance(one, Mapping):
            unknown = set(one) - {"mirror", "endpoint_url", "engine", "storage_options"}
            if unknown or not one.get("mirror"):
                msg = f"a mirror has no arguments such as {dict(one)!r}"
                raise MirrorError(msg)
            whole = resolve_mirror(**one, environment=False)
        else:
            whole = one
        found.append(replace(resolve_mirror(whole, **options), cache=None))
    names = [mirror.name for mirror in found]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        msg = f"the mirror {twice!r} is named twice; name each once"
        raise MirrorError(msg, mirror=twice)
    if len(found) == 1:
        return replace(found[0], cache=cache)
    public = tuple(mirror.root for mirror in _AUTO)
    auto = tuple(mirror.root for mirror in found) == public
    name = "auto" if auto else ", ".join(names)
    return replace(found[0], name=name, among=tuple(found), cache=cache)


def _seconds(name: str, given: dict[str, Any]) -> float:
    value = given.pop(name)
    usable = isinstance(value, int | float) and not isinstance(value, bool)
    if not usable or not 0 < value < math.inf:
        msg = f"{name} is a number of seconds, more than 0; got {value!r}"
        raise MirrorError(msg)
    return float(value)


def _named(mirror: object) -> str:
    if mirror is None:
        return os.environ.get(MIRROR_VARIABLE) or "aws"
    if not isinstance(mirror, str | os.PathLike) or not os.fspath(mirror):
        msg = f"a mirror is 'aws', 'gcs', a folder or a URL; got {mirror!r}"
        raise MirrorError(msg)
    return str(os.fspath(mirror))


def _check_endpoint(endpoint: str | None, mirror: Mirror) -> None:
    if endpoint is None:
        return
    credentials.refuse_in_url(endpoint, "endpoint")
    if not re.match(r"https?://[^/]", endpoint):
        msg = f"an endpoint is http://host or https://host; got {endpoint!r}"
        raise MirrorError(msg, endpoint_url=endpoint)
    if mirror.scheme not in _ENDPOINT_VARIABLES:
        msg = f"an endpoint is for s3:// and gs://, not for {mirror.root}"
        raise MirrorError(msg, endpoint_url=endpoint)


def _by_name(text: str) -> Mirror:
    if text in _PUBLIC:
        return _PUBLIC[text]
    if text == "sample":
        from importlib.resources import files

        return Mirror("sample", str(Path(str(files("intake_idc.sample"))) / "bucket"))
    if "://" in text:
        credentials.refuse_in_url(text, "mirror")
        if "::" in text or text.split("://", 1)[0] in _WRITING:
            msg = (
                f"a mirror is one place that is only read; got {text!r}. To keep "
                "objects on this machine, give cache=<folder>"
            )
            raise MirrorError(msg, mirror=text)
        root = text.rstrip("/").replace("gcs://", "gs://", 1)
        if not root.split("://", 1)[-1] or root.endswith(":"):
            msg = f"the mirror {text!r} names no bucket or folder"
            raise MirrorError(msg, mirror=text)
        return Mirror(root, root.removeprefix("file://"))
    folder = Path(text).expanduser().absolute()
    fixed = str(folder).split("{", 1)[0]
    if not Path(fixed).is_dir():
        near = nearest(text, [*_PUBLIC, "auto", "sample"])
        msg = f"no mirror {text!r}: it is neither 'aws' nor 'gcs' nor a folder{near}"
        raise MirrorError(msg, mirror=text)
    return Mirror(str(folder), str(folder))


def _endpoint(scheme: str) -> str | None:
    for variable in _ENDPOINT_VARIABLES.get(scheme, ()):
        value = os.environ.get(variable)
        if value:
            return value if "://" in value else f"http://{value}"
    return None
