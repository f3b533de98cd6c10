"""Column names by which tables name things of IDC, of all years and producers.

A name is compared without regard to case, blanks, underscores, dashes and dots:
``SeriesInstanceUID``, ``Series Instance UID`` and ``series_instance_uid`` are one.

Not taken, on purpose:

- ``Participant ID`` (CRDC's portals): a participant of the study as dbGaP knows it,
  which need not be the PatientID in the files; those tables name the file beside it.
- ``idc_case_id``, ``case_id``, ``submitter_case_id``: identifiers of other systems.
- ``aws_bucket``, ``gcs_bucket``: a bucket names no series, and series move.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Literal, NamedTuple

from intake_idc.formats.places import LONGEST_UID, UID, UUID, place

__all__ = [
    "KNOWN",
    "UNVALIDATED",
    "WOULD_DO",
    "Column",
    "Role",
    "guessed",
    "identifies",
    "known",
    "named",
    "placed",
    "plain",
    "release_numbers",
]

Role = Literal[
    "crdc_series_uuid",
    "crdc_instance_uuid",
    "crdc_study_uuid",
    "SeriesInstanceUID",
    "SOPInstanceUID",
    "StudyInstanceUID",
    "PatientID",
    "collection_id",
    "idc_version",
    "uid",
    "place",
]
"""What a column holds: one of the names of a listing, or ``place``: URLs, DRS
identifiers or uuids, for `intake_idc.formats.places.place`."""

_SPELLINGS: dict[Role, str] = {
    "crdc_series_uuid": "crdc_series_uuid series_uuid",
    "crdc_instance_uuid": "crdc_instance_uuid instance_uuid",
    "crdc_study_uuid": "crdc_study_uuid study_uuid",
    # NBIA writes "Series UID", and in older lists "Series ID".
    "SeriesInstanceUID": "SeriesInstanceUID series_uid series_id",
    "SOPInstanceUID": "SOPInstanceUID SOP_uid instance_uid sop_instance_id",
    "StudyInstanceUID": "StudyInstanceUID study_uid study_id",
    # dicom_patient_id is the PatientID in the clinical tables of IDC, and
    # "Subject ID" in NBIA's lists.
    "PatientID": "PatientID dicom_patient_id subject_id",
    "collection_id": "collection_id tcia_api_collection_id collection collection_name",
    "idc_version": "idc_version idc_data_version",
    "uid": "uid dicom_uid",
    "place": (
        "gcs_path gcs_url aws_url series_aws_url series_gcs_url s3_url gs_url s3_uri "
        "gs_uri drs_uri drs_id drs dos_uri self_uri file_id object_id guid did uuid "
        "url urls uri path location"
    ),
}
_WEAK = {"url", "urls", "uri", "path", "location", "seriesid", "studyid", "uuid"}
"""Names that may hold something else: a cell that is no identifier says nothing, as
long as another names the row."""
_DRS = {"drsuri", "drsid", "drs", "dosuri", "selfuri", "fileid", "objectid", "guid"}

UNVALIDATED = frozenset({"PatientID", "collection_id", "idc_version"})
"""Roles whose cells may be nearly any text, so that a shift of cells goes unseen."""

WOULD_DO = (
    "crdc_series_uuid, SeriesInstanceUID, StudyInstanceUID, SOPInstanceUID, "
    "crdc_instance_uuid, PatientID, collection_id, aws_url, gcs_url or drs_uri"
)
"""Columns that name something, for error messages."""


class Column(NamedTuple):
    """A column that says what a row is."""

    at: int
    """Place in the row, from 0."""
    header: str
    """Name as the table has it."""
    role: Role
    """What the cells are."""
    weak: bool = False
    """Whether a cell that is no identifier says nothing."""


def plain(name: str) -> str:
    """Give a column name without what spellings differ in."""
    return re.sub(r"[\s_.\-]", "", name.strip("\ufeff \t\"'").casefold())


KNOWN: dict[str, Role] = {
    plain(name): role for role, names in _SPELLINGS.items() for name in names.split()
}
"""What a column holds, by its plain name."""


def known(names: Sequence[str]) -> list[Column]:
    """Give the columns that say what a row is.

    Examples
    --------
    >>> [column.role for column in known(["Subject ID", "Series UID", "Modality"])]
    ['PatientID', 'SeriesInstanceUID']
    """
    plains = [plain(name) for name in names]
    drs = any(name in _DRS for name in plains)
    found = []
    for index, (name, key) in enumerate(zip(names, plains, strict=True)):
        role = KNOWN.get(key)
        # Beside a DRS identifier a subject is one of dbGaP's.
        if role is not None and not (drs and key == "subjectid"):
            found.append(Column(index, name.strip("\ufeff \t\"'"), role, key in _WEAK))
    return found


def named(columns: Sequence[Column]) -> bool:
    """Say whether any of the columns names something, and not just a release."""
    return any(column.role != "idc_version" for column in columns)


# Without a header: what the cells look like.

_UID_LIKE = re.compile(rf"(?=(?:[0-9]+\.){{3}}){UID}")
_UUID = re.compile(UUID)
_RELEASE = re.compile(r"(?:idc_)?v?(\d{1,4})(?:\.0+)?")
_RELEASE_LIKE = re.compile(r"\d{1,3}\.0(?:; ?\d{1,3}\.0)*")
_LIST = re.compile(r"\[(.*)\]", re.DOTALL)


def identifies(cell: str) -> Literal["uuid", "uid", "place", "release", ""]:
    """Say what a cell looks like, where no column name tells."""
    cell = cell.strip()
    if _UUID.fullmatch(cell):
        return "uuid"
    if _UID_LIKE.fullmatch(cell) and len(cell) <= LONGEST_UID:
        return "uid"
    if isinstance(place(cell), dict) and not re.fullmatch(UID, cell):
        return "place"
    return "release" if _RELEASE_LIKE.fullmatch(cell) else ""


def guessed(rows: Sequence[Sequence[str]]) -> list[Column]:
    """Tell the columns of rows without a header by their cells and their order.

    The order is the one the portal has written since 2021: PatientID, collection_id,
    source_DOI, StudyInstanceUID, SeriesInstanceUID, crdc_instance_uuid,
    crdc_study_uuid, crdc_series_uuid, idc_version, gcs_url, aws_url, SOPInstanceUID.

    Returns
    -------
    list of Column
        None where it cannot be told.
    """
    width = max(map(len, rows), default=0)
    looks: list[str] = []
    for index in range(width):
        cells = [row[index] for row in rows if index < len(row) and row[index].strip()]
        kinds = {identifies(cell) for cell in cells}
        looks.append(kinds.pop() if len(kinds) == 1 else "")
    uids = [index for index, look in enumerate(looks) if look == "uid"]
    uuids = [index for index, look in enumerate(looks) if look == "uuid"]
    by_uid, by_uuid = _uids(uids, looks), _uuids(uuids, uids, rows)
    if bool(by_uid) != bool(uids) or len(by_uuid) != len(uuids):
        return []
    found = by_uid + by_uuid
    for index, look in enumerate(looks):
        if look == "place":
            found.append((index, "place"))
        elif look == "release":
            found.append((index, "idc_version"))
    columns = [Column(index, f"column {index + 1}", role) for index, role in found]
    return sorted(columns) if named(columns) else []


def _uids(places: list[int], looks: Sequence[str]) -> list[tuple[int, Role]]:
    """Tell UIDs by where they stand: those of study and series are neighbours.

    One in front of them is a PatientID: some collections have such as look like UIDs.
    """
    roles: list[Role] = ["StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID"]
    pair = next((index for index, at in enumerate(places) if at + 1 in places), None)
    if pair is not None:
        places = places[pair:]
        return (
            list(zip(places, roles, strict=False)) if len(places) <= len(roles) else []
        )
    if len(places) == 2 and any(looks[places[0] + 1 : places[1]]):  # noqa: PLR2004
        # The portal has that of the object last, behind uuids and URLs.
        return [(places[1], "SOPInstanceUID")]
    return [(places[-1], "uid")] if 1 <= len(places) <= 2 else []  # noqa: PLR2004


def _uuids(
    places: list[int], uids: list[int], rows: Sequence[Sequence[str]]
) -> list[tuple[int, Role]]:
    if len(places) == 1:
        return [(places[0], "place")]
    if len(places) == 2:  # noqa: PLR2004
        return [(places[0], "crdc_study_uuid"), (places[1], "crdc_series_uuid")]
    if len(places) != 3:  # noqa: PLR2004
        return []
    # The portal puts the instance first, BigQuery last, behind three UIDs; and there
    # are no more studies than series, and no more series than instances.
    orders: list[tuple[Role, ...]] = [
        ("crdc_instance_uuid", "crdc_study_uuid", "crdc_series_uuid"),
        ("crdc_study_uuid", "crdc_series_uuid", "crdc_instance_uuid"),
    ]
    if len([uid for uid in uids if uid < places[0]]) == 3:  # noqa: PLR2004
        orders.reverse()
    counts = [len({row[at] for row in rows if at < len(row)}) for at in places]
    for order in orders:
        count = dict(zip(order, counts, strict=True))
        if (
            count["crdc_study_uuid"]
            <= count["crdc_series_uuid"]
            <= count["crdc_instance_uuid"]
        ):
            return list(zip(places, order, strict=True))
    return []


# Cells.


def release_numbers(cell: str) -> list[int] | None:
    """Give the releases that a cell names, ``14.0; 15.0``; None where it is no such.

    ``current`` is a release too, but which one depends on the day: it names none.
    """
    if cell.strip().lower() == "current":
        return []
    numbers = []
    for part in cell.split(";"):
        found = re.fullmatch(
            r"(?:idc_)?v?(\d{1,4})(?:\.0+)?", part.strip(), re.IGNORECASE
        )
        if not found or not int(found[1]):
            return None
        numbers.append(int(found[1]))
    return numbers


def placed(cell: str) -> dict[str, str] | str:
    """Say what the cell of a column of places names; see `places.place`.

    IndexD writes all places of an object into one cell, ``[gs://.., s3://..]``.
    """
    several = _LIST.fullmatch(cell)
    if not several:
        return place(cell)
    names: dict[str, str] = {}
    for part in filter(None, (part.strip(" '\"") for part in several[1].split(","))):
        found = place(part)
        if isinstance(found, str):
            return found
        if any(names.get(name, value) != value for name, value in found.items()):
            return "names several objects"
        names |= found
    return names or "is an empty list"
