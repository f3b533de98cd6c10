"""What the files of a copy are called: by uuid, by SOPInstanceUID, by slice.

The uuid is in the key. The others are in the headers, of which 16 KiB are read, side by
side; SOPInstanceUIDs that the cohort knows are not read.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias, get_args

from intake_idc.arrow import texts
from intake_idc.errors import (
    DicomReadError,
    GeometryError,
    IntegrityError,
    RequestError,
    StorageError,
    nearest,
)
from intake_idc.plan.layout import FileNames
from intake_idc.plan.names import safe_name

if TYPE_CHECKING:
    from intake_idc.export import ObjectTable
    from intake_idc.lazy import DicomObject
    from intake_idc.manifest import Manifest
    from intake_idc.storage import Instance, Listed, Mirror
    from intake_idc.volume import Slice

__all__ = ["Names", "file_names", "follow"]

Failed: TypeAlias = StorageError | IntegrityError
"""Why an object cannot be read; it is told, and the others go on."""

SUFFIX = ".dcm"
AT_ONCE = 8_192
"""Objects that are held at once; a series with more of them is not cut."""
KNOWN_AT_ONCE = 65_536
"""The same where nothing is read: they are looked up among all that are known."""
DIGITS = 4
"""Digits of a slice's number, or more where there are more slices."""


class Names(Mapping[str, str]):
    """File names by key, ``<crdc_series_uuid>/<crdc_instance_uuid>.dcm``.

    Held as one text for each series: 1,000,000 SOPInstanceUIDs take about 110 MB.
    Keys are asked for in the order of the series at little cost.
    """

    def __init__(self) -> None:
        self.problems: dict[str, str] = {}
        """Why an object has no name, by its key; or why none of a series has, by
        ``<crdc_series_uuid>/``."""
        self._packed: dict[str, str] = {}
        self._count = 0
        self._opened: tuple[str, dict[str, str]] = "", {}

    def put(self, series: str, names: Mapping[str, str]) -> None:
        """Add names of objects of a series, by the last part of the key."""
        if series in self._packed:
            # A run of it, after another.
            before = self._of(series)
            self._count -= len(before)
            names = {**before, **names}
            self._opened = "", {}
        if names:
            self._packed[series] = "\0".join(
                text for pair in names.items() for text in pair
            )
            self._count += len(names)

    def _of(self, series: str) -> dict[str, str]:
        opened, names = self._opened
        if opened != series:
            parts = self._packed[series].split("\0")
            names = dict(zip(parts[::2], parts[1::2], strict=True))
            self._opened = series, names
        return names

    def __getitem__(self, key: str) -> str:
        """Give the name of an object by its key."""
        series, _, last = key.partition("/")
        try:
            return self._of(series)[last]
        except KeyError:
            raise KeyError(key) from None

    def __iter__(self) -> Iterator[str]:
        return (
            f"{series}/{last}" for series in self._packed for last in self._of(series)
        )

    def __len__(self) -> int:
        return self._count

    def __repr__(self) -> str:
        return f"<Names: {len(self):,}, problems: {len(self.problems):,}>"

    def problem(self, key: str) -> str | None:
        """Say why an object has no name; None where it has one."""
        series, _, _ = key.partition("/")
        return self.problems.get(key) or self.problems.get(f"{series}/")


def file_names(
    manifest: Manifest,
    kind: FileNames,
    mirror: Mirror,
    *,
    objects: ObjectTable | None = None,
) -> Names:
    """Name every object of a manifest that a mirror holds.

    Series are listed, unless the manifest knows their objects. What cannot be listed,
    or not be read, is among the ``problems`` of what is given, with no name.

    Parameters
    ----------
    manifest : Manifest
        The series, or the objects of them that are meant.
    kind : "uuid", "SOPInstanceUID" or "slice"
        How the files are called; see `follow`.
    mirror : Mirror
        Where they are listed and read.
    objects : ObjectTable, optional
        Of the cohort. SOPInstanceUIDs that it states are not read.

    Raises
    ------
    RequestError
        There is no such kind of names.
    """
    from intake_idc.storage import list_all

    names = Names()
    listed = list_all(list(manifest.parts()), mirror)
    followed = follow(listed, names, kind, mirror, objects=objects)
    for series, one in zip(manifest.uuids, followed, strict=True):
        for error in one.errors:
            uuid = error.details.get("crdc_instance_uuid")
            key = f"{series}/{uuid}{SUFFIX}" if uuid else f"{series}/"
            if uuid or not one.instances:
                names.problems.setdefault(key, str(error))
    return names


def follow(
    listed: Iterable[Listed],
    names: Names,
    kind: FileNames,
    mirror: Mirror,
    *,
    objects: ObjectTable | None = None,
) -> Iterator[Listed]:
    """Name the objects of series while they are listed, and give the series on.

    ``uuid``
        ``<crdc_instance_uuid>.dcm``; nothing is read.
    ``SOPInstanceUID``
        ``<SOPInstanceUID>.dcm``. An object that states none, or is not DICOM, is called
        by its uuid.
    ``slice``
        ``0001.dcm`` and so on: four digits, or as many as the last one needs. Slices
        that make one stack are in the order of `intake_idc.volume.Stack`: along the
        normal, and where as many lie at each place, by what tells them apart first,
        such as time or echo. The objects of any other series, with several
        orientations, localizers, places that are not stated, or several frames in an
        object, are in the order of InstanceNumber, then of SOPInstanceUID, then of the
        uuid; those without an InstanceNumber come last. A lone object is ``0001.dcm``
        unread.

    Parameters
    ----------
    listed : iterable of Listed
        Series, as `intake_idc.storage.list_all` gives them.
    names : Names
        Gets the names of a series before that is given.
    kind, mirror, objects
        As in `file_names`, and so are the errors.

    Returns
    -------
    iterator of Listed
        Every series, in order. An object that has no name, for its header could not be
        read, is not among the instances: the errors say why. Of slices that is the
        whole series, since every number may be another.
    """
    _check_kind(kind)
    return _followed(listed, names, kind, mirror, objects)


def _followed(
    listed: Iterable[Listed],
    names: Names,
    kind: FileNames,
    mirror: Mirror,
    objects: ObjectTable | None,
) -> Iterator[Listed]:
    room = AT_ONCE
    if kind == "uuid" or (kind == "SOPInstanceUID" and objects is not None):
        room = KNOWN_AT_ONCE
    batch: list[Listed] = []
    held = 0
    for one in listed:
        batch.append(one)
        held += len(one.instances)
        if held >= room:
            yield from _named(batch, names, kind, mirror, objects)
            batch, held = [], 0
    yield from _named(batch, names, kind, mirror, objects)


def _check_kind(kind: str) -> None:
    if kind not in get_args(FileNames):
        near = nearest(kind, get_args(FileNames))
        kinds = ", ".join(map(repr, get_args(FileNames)))
        msg = f"files are named by {kinds}; got {kind!r}{near}"
        raise RequestError(msg, file_names=kind)


def _named(
    batch: Sequence[Listed],
    names: Names,
    kind: FileNames,
    mirror: Mirror,
    objects: ObjectTable | None,
) -> Iterator[Listed]:
    """Name the objects of some series, their headers read side by side."""
    series = [one.instances for one in batch if one.instances]
    if kind == "slice":
        failed = _by_slice(names, series, mirror)
    else:
        uids: Mapping[str, str | Failed | None] = {}
        if kind == "SOPInstanceUID":
            uids = _uids([own for one in series for own in one], mirror, objects)
        failed = _by_uid(names, series, uids)
    names.problems.update((key, str(error)) for key, error in failed.items())
    for one in batch:
        if not one.instances or not failed:
            yield one
            continue
        whole = failed.get(f"{_series(one.instances)}/")
        if whole is not None:
            yield one._replace(instances=(), errors=(*one.errors, whole))
            continue
        kept = [own for own in one.instances if own.key not in failed]
        lost = [failed[own.key] for own in one.instances if own.key in failed]
        yield one._replace(instances=kept, errors=(*one.errors, *lost))


def _series(own: Sequence[Instance]) -> str:
    return own[0].key.partition("/")[0]


def _last(one: Instance) -> str:
    return one.key.partition("/")[2]


def _by_uid(
    names: Names,
    series: Iterable[Sequence[Instance]],
    uids: Mapping[str, str | Failed | None],
) -> dict[str, Failed]:
    """Name objects by uid, or by uuid where they have none; give those that failed."""
    failed = {}
    for own in series:
        found = {}
        for one in own:
            uid = uids.get(one.key)
            if isinstance(uid, StorageError | IntegrityError):
                failed[one.key] = uid
            else:
                found[_last(one)] = safe_name(uid or one.crdc_instance_uuid, SUFFIX)
        names.put(_series(own), found)
    return failed


# By SOPInstanceUID.


def _uids(
    instances: Sequence[Instance], mirror: Mirror, objects: ObjectTable | None
) -> dict[str, str | Failed | None]:
    """Give SOPInstanceUIDs by key: those that are known, and else those of headers."""
    from intake_idc.storage import each

    known: dict[str, str | Failed | None] = {}
    if objects is not None:
        keys = [one.key for one in instances]
        stated = objects.uids(texts([key.removesuffix(SUFFIX) for key in keys]))
        if stated is not None:
            known = dict(zip(keys, stated.to_pylist(), strict=True))
    rest = [one for one in instances if not known.get(one.key)]
    read = each(partial(_uid, mirror=mirror), rest)
    known.update(zip((one.key for one in rest), read, strict=True))
    return known


def _uid(instance: Instance, mirror: Mirror) -> str | Failed | None:
    """Read the SOPInstanceUID of an object; None where it states none."""
    from intake_idc import dicom
    from intake_idc.storage import Ranged

    tags = dicom.resolve_tags("SOPInstanceUID")
    read = Ranged(instance, mirror).read
    try:
        values = dicom.read_values(read, instance.size, tags, instance.url)
    except DicomReadError:
        # Its bytes never change: it has none the next time, too.
        return None
    except (StorageError, IntegrityError) as error:
        return error
    uid: str | None = values["SOPInstanceUID"]
    return uid


# By slice.


class _Seen(NamedTuple):
    """What an object says of its place in the series."""

    place: Slice | None
    """Its slice, where it has one place."""
    number: int | None
    """InstanceNumber."""
    uid: str
    """SOPInstanceUID."""


def _by_slice(
    names: Names, series: Iterable[Sequence[Instance]], mirror: Mirror
) -> dict[str, Failed]:
    """Name objects by the order of their slices; give the series that failed."""
    from intake_idc.lazy import DicomObject
    from intake_idc.storage import each

    series = list(series)
    many = (own for own in series if len(own) > 1)
    numbered = (
        (number, DicomObject(one, mirror))
        for own in many
        for number, one in enumerate(own)
    )
    looked = each(_look, numbered)
    failed: dict[str, Failed] = {}
    for own in series:
        order = [0]
        if len(own) > 1:
            seen = [next(looked) for _ in own]
            lost = [one for one in seen if not isinstance(one, _Seen)]
            if lost:
                # Without one of them the numbers of the others are not known.
                failed[f"{_series(own)}/"] = _unordered(own, lost)
                continue
            order = _order(own, [one for one in seen if isinstance(one, _Seen)])
        digits = max(DIGITS, len(str(len(own))))
        numbers = {at: number for number, at in enumerate(order, 1)}
        found = {
            _last(one): f"{numbers[at]:0{digits}}{SUFFIX}" for at, one in enumerate(own)
        }
        names.put(_series(own), found)
    return failed


def _unordered(own: Sequence[Instance], lost: Sequence[Failed]) -> StorageError:
    url = own[0].url.rpartition("/")[0]
    msg = (
        f"the order of the slices of {url} is not known, for {len(lost):,} of "
        f"{len(own):,} headers cannot be read: {lost[0]}"
    )
    return StorageError(msg, url=url)


def _look(numbered: tuple[int, DicomObject]) -> _Seen | Failed:
    from intake_idc import dicom

    index, found = numbered
    try:
        header = found.header()
    except DicomReadError:
        # Its bytes never change: it says nothing the next time, too.
        return _Seen(None, None, "")
    except (StorageError, IntegrityError) as error:
        return error
    number = _value(header, "InstanceNumber")
    uid = _value(header, "SOPInstanceUID")
    place: list[Slice] = []
    # Of several frames no slice is made: there may be thousands.
    if _value(header, "NumberOfFrames") in (None, 0, 1):
        try:
            place = dicom.slices_of(header, index, found.url)
        except (DicomReadError, GeometryError):
            place = []
    return _Seen(
        place[0] if len(place) == 1 else None,
        number if isinstance(number, int) else None,
        uid if isinstance(uid, str) else "",
    )


def _value(header: Any, keyword: str) -> Any:
    """Give a value of a header; None as well where it is malformed."""
    from intake_idc import dicom

    try:
        return dicom.values(header, (keyword,))[keyword]
    except DicomReadError:
        return None


def _order(own: Sequence[Instance], seen: Sequence[_Seen]) -> list[int]:
    """Give the objects of a series in order, by their positions in it."""
    from intake_idc import volume
    from intake_idc.volume.grid import normal_of

    places = [one.place for one in seen if one.place is not None]
    if len(places) == len(seen):
        stacks = volume.arrange(places, strict=False).stacks
        one = len(stacks) == 1 and len(stacks[0]) == len(seen)
        # Where row and column point the same way there is no normal to go along.
        if one and normal_of(stacks[0].orientation).any():
            return list(stacks[0].order)

    def rank(at: int) -> tuple[bool, int, str, str]:
        number = seen[at].number
        return number is None, number or 0, seen[at].uid, own[at].key

    return sorted(range(len(own)), key=rank)
