"""Names of a copy: safe on every platform, told apart, and what they are made of."""

from __future__ import annotations

import datetime as dt
import ntpath
import os
import pickle
import re
import shutil
import unicodedata
from decimal import Decimal
from pathlib import Path, PurePosixPath, PureWindowsPath
from uuid import UUID

import numpy as np
import pyarrow as pa
import pytest
from derived import AXIAL, OBLIQUE, ct_slices, mirror_of, series
from hypothesis import example, given
from hypothesis import strategies as st
from images import image, native, saved

from intake_idc import open_idc, resolve_mirror
from intake_idc.arrow import packed
from intake_idc.cohort import naming
from intake_idc.cohort.naming import Names, file_names, follow
from intake_idc.errors import PlanError, RequestError
from intake_idc.export import ObjectTable
from intake_idc.manifest import ONLY, Manifest, subset_column
from intake_idc.plan.layout import (
    DIR_TEMPLATE,
    Template,
    series_folder,
    template_columns,
)
from intake_idc.plan.names import (
    LONGEST_NAME,
    POSIX_BYTES,
    path_problem,
    safe_name,
    same,
)
from intake_idc.storage import instances, list_all

# Names.

LONG = "é" * 300
ANYTHING = st.text(st.characters(), max_size=400)
"""Half characters and controls as well."""
NASTY = st.text(
    st.sampled_from(
        [
            *'\u200d\ufeffaA1._ -~%/\\:*?"<>|\0\n\x7f\x85éE\u0301ß\u017f\u0131İK',
            *"con.",
            "\ud800",
        ]
    ),
    max_size=140,
)


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("Lung Phantom", "Lung Phantom"),
        ("../../etc", "_.._etc"),
        ("a/b\\c", "a_b_c"),
        ("C:\\x", "C__x"),
        ("CON", "_CON"),
        ("nul.txt", "_nul.txt"),
        ("Com1 .x", "_Com1 .x"),
        ("LPT\u00b9", "_LPT\u00b9"),
        ("conout$", "_conout$"),
        ("console", "console"),
        ("com10", "com10"),
        ("x. .", "x"),
        (" .hidden", "hidden"),
        (".idc", "idc"),
        ("\u200c.idc", "idc"),
        (".idc-0-1-2-3.part", "idc-0-1-2-3.part"),
        ("", "_"),
        ("..", "_"),
        ("a\0b\nc\x7fd\x85e", "a_b_c_d_e"),
        ("e\u0301", "\u00e9"),
        ("<\u0338", "\u226e"),
        ('<>:"|?*', "_______"),
        ("a\ud800b\ufffec\U0001ffff", "a_b_c_"),
        ("photo\u202egnp.exe", "photo_gnp.exe"),
        ("100%", "100%"),
    ],
)
def test_a_name_is_safe_by_rule(text, name):
    assert safe_name(text) == name


def is_windows_device(name: str) -> bool:
    """What Python itself says of a name."""
    if hasattr(ntpath, "isreserved"):
        return ntpath.isreserved(name)
    return PureWindowsPath(name).is_reserved()


def check_name(name: str) -> None:
    assert name not in ("", ".", "..")
    assert not set(name) & set('<>:"/\\|?*')
    assert not any(unicodedata.category(c) in ("Cc", "Cs") for c in name)
    assert not same(name).startswith((".", " "))
    assert not name.endswith((".", " "))
    assert not is_windows_device(name)
    assert len(name) <= LONGEST_NAME
    for form in ("NFC", "NFD"):
        written = unicodedata.normalize(form, name)
        assert len(written.encode("utf-16-le")) // 2 <= 255
    assert len(name.encode()) <= 255
    assert unicodedata.is_normalized("NFC", name)


@given(ANYTHING | NASTY, st.sampled_from(["", ".dcm"]))
@example("ΐ" * 120, "")
@example("\ud800" * 300, ".dcm")
@example("com1" + "." * 110 + "x", "")
@example("com1" + " " * 110 + "x", "")
@example("a" * 102 + ". . . . . . . . . .x", "")
@example("😀" * 100, ".dcm")
def test_any_text_gives_one_short_part_of_a_path_that_stays_as_it_is(text, ending):
    name = safe_name(text, ending)
    check_name(name)
    assert name.endswith(ending)
    assert safe_name(name) == name
    assert (Path("/t") / name).resolve().parent == Path("/t")
    assert path_problem("/t", name) is None


def test_long_names_are_told_apart_by_what_was_cut_off():
    names = {safe_name(f"{LONG}{n}", ".dcm") for n in range(50)}
    names |= {
        safe_name("x" * 300 + tail) for tail in ("\ud800", "\ud801", "é", "e\u0301")
    }
    assert len({same(name) for name in names}) == 54
    assert len(safe_name("x" * 120)) == len(safe_name("x" * 121)) == 120


# Paths that are one file somewhere.


PLATFORMS = {
    "APFS": lambda path: unicodedata.normalize(
        "NFD", unicodedata.normalize("NFD", path).casefold()
    ),
    "HFS+": lambda path: re.sub(
        "[\u200c-\u200f\u202a-\u202e\u206a-\u206f\ufeff]",
        "",
        unicodedata.normalize("NFD", path).lower(),
    ),
    "NTFS": lambda path: "/".join(
        "".join(c.upper() if len(c.upper()) == 1 else c for c in part).rstrip(". ")
        for part in path.split("/")
    ),
    "lower": str.lower,
    "upper": str.upper,
    "NFC": lambda path: unicodedata.normalize("NFC", path),
}
TWINS = (
    str.upper,
    str.lower,
    str.swapcase,
    str.title,
    str.casefold,
    lambda text: unicodedata.normalize("NFD", text),
    lambda text: unicodedata.normalize("NFC", text),
    lambda text: text + ". ",
    lambda text: text.replace("a", "a\u200d"),
)


@given(NASTY | st.text(max_size=30), st.lists(st.sampled_from(TWINS), min_size=1))
@example("a", [TWINS[-1]])
@example("a", [TWINS[-2]])
@example("Straße/ǅ", [str.upper, str.lower])
@example("ΰ\u0345/ᾳ", [str.upper])
def test_what_a_platform_takes_for_one_file_has_one_key(text, changes):
    path = "/".join(part for part in text.split("/") if part.strip(". ")) or "x"
    twin = path
    for change in changes:
        twin = "/".join(map(change, twin.split("/")))
    for name, platform in PLATFORMS.items():
        if platform(path) == platform(twin):
            assert same(path) == same(twin), name
    assert same(same(path)) == same(path)


def test_every_letter_has_one_key_in_either_case_and_form():
    cased = [c for c in map(chr, range(0x20000)) if c.swapcase() != c]
    assert len(cased) > 2_000
    for letter in cased:
        for change in TWINS[:-1]:
            for form in ("NFC", "NFD"):
                twin = unicodedata.normalize(form, change(letter))
                assert same(twin) == same(letter), ascii(letter)


@pytest.mark.parametrize(
    ("one", "two"),
    [
        ("a/b.dcm", "a/c.dcm"),
        ("a/b.dcm", "ab.dcm"),
        ("o", "\u00f6"),
        ("1.2.3", "1.23"),
        ("a .b", "a.b"),
    ],
)
def test_paths_that_are_two_files_everywhere_have_two_keys(one, two):
    assert same(one) != same(two)


@given(st.lists(st.tuples(NASTY, NASTY), min_size=2, max_size=6, unique=True))
def test_folders_of_any_values_are_below_the_target_and_never_merge_unseen(rows):
    template = Template("%a/x_%b", ["a", "b"])
    found = [template.folder({"a": a, "b": b}) for a, b in rows]
    for folder in found:
        place = Path(os.path.normpath(Path("/t") / folder))
        assert place.parents[1] == Path("/t")
        assert path_problem("/t", folder) is None
        for part in folder.split("/"):
            check_name(part)
    for platform in PLATFORMS.values():
        assert len({same(f) for f in found}) <= len({platform(f) for f in found})


# What no rule can make right.


@pytest.mark.parametrize(
    ("root", "path", "longest", "problem"),
    [
        ("/data", "CT/1.dcm", None, None),
        ("/data", "1.dcm", None, None),
        ("/data", "../1.dcm", None, "leads out"),
        ("/data", "a/../../1.dcm", None, "leads out"),
        ("/data", "/etc/passwd", None, "is absolute"),
        ("/data", "C:/x", None, "is absolute"),
        ("/data", "\\\\host\\x", None, "is absolute"),
        ("/data", "a//b", None, "without a name"),
        ("/data", "", None, "without a name"),
        ("/data", "a/", None, "without a name"),
        ("/data", "./b", None, "is not a name on every platform; '_' is"),
        ("/data", "a?b", None, "is not a name on every platform; 'a_b' is"),
        ("/data", "a/b:c", None, "'b_c' is"),
        ("/data", "CON/1.dcm", None, "'_CON' is"),
        ("/data", "e\u0301", None, "is not a name on every platform"),
        ("/data", ".idc/x.arrow", None, "'idc' is"),
        ("/data", "é" * 128, None, "more than 255 bytes"),
        ("/data", "\ud800", None, "is not a name"),
        # With its root, in the units that the platform counts.
        ("/" + "r" * (POSIX_BYTES - 200), "p" * 120 + "/x.dcm", None, None),
        ("/" + "r" * (POSIX_BYTES - 96), "p" * 90 + "/x.dcm", None, f"{POSIX_BYTES:,}"),
        ("/" + "r" * 200, "p" * 60, 259, "has 262 characters with its target"),
        ("/" + "r" * 200, "p" * 57, 259, None),
        (PurePosixPath("/r"), "é" * 100, 103, None),
        (PurePosixPath("/r"), "é" * 100, 102, "103 characters"),
        (PureWindowsPath("C:\\data"), "CT/1.dcm", None, None),
        (PureWindowsPath("C:\\" + "d" * 180), "s" * 18 + "/1.dcm", None, None),
        (PureWindowsPath("C:\\" + "d" * 180), "s" * 19 + "/1.dcm", None, "at most 259"),
        (PureWindowsPath("\\\\?\\C:\\" + "d" * 300), "s/1.dcm", None, None),
        ("s3://bucket/" + "k" * 900, "p" * 120, None, None),
        ("s3://bucket/" + "k" * 900, "p" * 110 + "/" + "q" * 20, None, "at most 1,024"),
    ],
)
def test_a_path_that_cannot_be_written_is_said_in_words(root, path, longest, problem):
    found = path_problem(root, path, longest)
    assert found is None if problem is None else problem in found


def test_what_may_be_written_can_be(tmp_path):
    root = tmp_path / ("r" * 200)
    levels = (POSIX_BYTES - len(os.fsencode(root)) - 57) // 101
    path = "/".join("p" * 100 for _ in range(levels)) + "/" + "f" * 56
    assert path_problem(root, path) is None
    (root / path).parent.mkdir(parents=True)
    (root / path).write_bytes(b"")
    assert (root / path).exists()
    shutil.rmtree(root)


# Layouts.

COLUMNS = [
    "Modality",
    "SeriesInstanceUID",
    "collection_id",
    "PatientID",
    "StudyInstanceUID",
]
ROW = {
    "Modality": "CT",
    "SeriesInstanceUID": "1.2.3",
    "collection_id": "tcga_luad",
    "PatientID": "TCGA-05-4244",
    "StudyInstanceUID": "1.9",
}


def by_idc_index(template: str, row: dict[str, str]) -> str:
    """The folder that idc-index 0.13.4 has DuckDB make of a template that it takes."""
    tokens = re.split("%(" + "|".join(sorted(row, reverse=True)) + ")", template)
    made = [row[t] if i % 2 else t for i, t in enumerate(tokens)]
    return os.path.normpath("target/" + "".join(made))


@given(
    st.lists(
        st.sampled_from([*(f"%{name}" for name in COLUMNS), "_", "-", "/"]), max_size=12
    ).map("".join)
)
@example(DIR_TEMPLATE)
@example("/%PatientID//%Modality/")
@example("%Modality%PatientID")
@example("%PatientID__-%Modality_")
def test_every_template_of_idc_index_means_what_it_means_there(template):
    folder = Template(template, [*COLUMNS, "Modality_x", "PatientAge"]).folder(ROW)
    assert os.path.normpath(f"target/{folder}") == by_idc_index(template, ROW)


def test_the_default_names_the_columns_that_idc_index_names():
    assert template_columns(DIR_TEMPLATE, COLUMNS) == [
        "collection_id",
        "PatientID",
        "StudyInstanceUID",
        "Modality",
        "SeriesInstanceUID",
    ]


@pytest.mark.parametrize("template", ["", None, "/", ".", "./"])
def test_an_empty_template_is_flat(template):
    flat = Template(template, COLUMNS)
    assert (flat.columns, flat.folder({})) == ([], "")
    assert flat.folders(pa.table({"PatientID": ["a", "b"]})) == ["", ""]


@pytest.mark.parametrize(
    ("template", "value", "folder"),
    [
        ("%x", None, "unknown"),
        ("%x", float("nan"), "unknown"),
        ("%x", "", "_"),
        ("a_%x", 7, "a_7"),
        ("%x", 2.5, "2.5"),
        ("%x", True, "True"),
        ("%x", Decimal("1.50"), "1.50"),
        ("%x", dt.date(2001, 2, 3), "2001-02-03"),
        (
            "%x",
            dt.datetime(2001, 2, 3, 4, 5, tzinfo=dt.timezone.utc),
            "2001-02-03 04_05_00+00_00",
        ),
        ("%x", "%x/%y", "%x_%y"),
        ("%x", "..", "_"),
        ("%x/b", "../../etc", "_.._etc/b"),
        ("%x", "/abs", "_abs"),
        ("%x", "CON", "_CON"),
        ("%xIN", "CON", "CONIN"),
        ("%x$", "CONIN", "_CONIN$"),
        ("%x.", "a", "a"),
        ("%x", ".idc", "idc"),
        ("images: %x", "1", "images_ 1"),
        ("100%% %x", "1", "100% 1"),
        ("%%x_%x", "1", "%x_1"),
        ("a/./%x", "1", "a/1"),
        ("%x%x", "1", "11"),
    ],
)
def test_values_of_any_kind_become_parts_of_a_folder(template, value, folder):
    assert Template(template, ["x", "y"]).folder({"x": value, "y": 1}) == folder
    assert series_folder(template, {"x": value, "y": 1}) == folder
    if not isinstance(value, Decimal):
        table = pa.table({"x": pa.array([value, value]), "y": [1, 1]})
        assert Template(template, ["x", "y"]).folders(table) == [folder] * 2


def test_the_longest_column_that_fits_is_meant():
    columns = ["Series", "SeriesNumber", "SeriesNumber_2", "odd name"]
    assert template_columns("%SeriesNumber_3/%SeriesNumber_2", columns) == [
        "SeriesNumber",
        "SeriesNumber_2",
    ]
    assert template_columns("%odd name-%Series", columns) == ["odd name", "Series"]


@pytest.mark.parametrize(
    ("template", "match"),
    [
        ("/data/%PatientID", "below the target"),
        ("../%PatientID", "below the target"),
        ("%PatientID/..", "below the target"),
        ("C:\\%PatientID", "below the target"),
        ("%PatientId", "did you mean 'PatientID'"),
        ("%PatientID/%", "names no column at %; columns: "),
        ("%PatientID%%%", "names no column at %"),
        ("% PatientID", "names no column at %"),
    ],
)
def test_a_template_that_cannot_be_meant_is_refused(template, match):
    with pytest.raises(PlanError, match=re.escape(match)):
        Template(template, COLUMNS)


def test_folders_of_a_table_are_those_of_its_rows():
    cohort = open_idc(2, tables="sample").all()
    table = cohort.manifest(["PatientID", "Modality", "SeriesNumber"]).table
    template = Template("%Modality/%PatientID-%SeriesNumber/all", table.column_names)
    rows = table.to_pylist()
    assert template.folders(table) == [template.folder(row) for row in rows]
    assert len(set(template.folders(table))) > 1


# Names of files.

KINDS = ("uuid", "SOPInstanceUID", "slice")


@pytest.fixture
def put(tmp_path):
    """Puts datasets, or bytes, into a mirror as one series, in an order of its own."""

    def given_files(datasets, seed=0):
        data = [one if isinstance(one, bytes) else saved(one) for one in datasets]
        order = np.random.default_rng(seed).permutation(len(data)).tolist()
        manifest, objects = series(tmp_path, [data[at] for at in order])
        keys = {at: one.instance.key for at, one in zip(order, objects, strict=True)}
        return manifest, mirror_of(tmp_path), [keys[at] for at in range(len(data))]

    return given_files


def named(put, datasets, kind="slice", seed=0):
    """The name of each dataset, in the order in which they are given."""
    manifest, mirror, keys = put(datasets, seed)
    names = file_names(manifest, kind, mirror)
    assert set(names) == set(keys)
    assert len(names) == len(keys)
    assert not names.problems
    return [names[key] for key in keys]


def numbers(names):
    return [int(name.removesuffix(".dcm")) for name in names]


def test_names_of_the_sample_are_of_its_own_objects():
    cohort = open_idc(2, tables="sample").all()
    manifest, mirror = cohort.manifest(), resolve_mirror("sample")
    keys = [one.key for one in instances(manifest.parts(), mirror)]
    by_uuid = file_names(manifest, "uuid", mirror)
    assert dict(by_uuid) == {key: key.split("/")[1] for key in keys}
    rows = cohort.headers("SOPInstanceUID").compute().itertuples()
    by_uid = file_names(manifest, "SOPInstanceUID", mirror)
    assert dict(by_uid) == {
        f"{row.crdc_series_uuid}/{row.crdc_instance_uuid}.dcm": (
            f"{row.SOPInstanceUID}.dcm"
        )
        for row in rows
    }
    by_slice = file_names(manifest, "slice", mirror)
    assert set(by_slice) == set(keys)
    for uuid in manifest.uuids:
        own = [name for key, name in by_slice.items() if key.startswith(uuid)]
        assert sorted(own) == [f"{n:04}.dcm" for n in range(1, len(own) + 1)]


@pytest.mark.parametrize("seed", range(4))
def test_slices_are_named_along_their_normal_whatever_the_keys_and_numbers(put, seed):
    slices = ct_slices(11, orientation=OBLIQUE if seed % 2 else AXIAL)
    assert slices[0].InstanceNumber > slices[1].InstanceNumber
    assert numbers(named(put, slices, seed=seed)) == list(range(1, 12))


def test_a_gap_or_uneven_steps_are_a_stack_still(put):
    slices = ct_slices(9)
    assert numbers(named(put, [*slices[:3], *slices[5:]])) == [1, 2, 3, 4, 5, 6, 7]
    del slices[3], slices[4]
    assert numbers(named(put, slices)) == [1, 2, 3, 4, 5, 6, 7]


def test_what_tells_slices_of_one_place_apart_goes_first(put):
    early, late = ct_slices(3), ct_slices(3)
    for time, part in enumerate((early, late), 1):
        for one in part:
            one.TemporalPositionIdentifier = time
    assert numbers(named(put, [*late, *early])) == [4, 5, 6, 1, 2, 3]


def coronal(_):
    return ct_slices(1, orientation=OBLIQUE)[0]


def without(keyword):
    def change(one):
        delattr(one, keyword)
        return one

    return change


def with_value(keyword, value):
    def change(one):
        setattr(one, keyword, value)
        return one

    return change


@pytest.mark.parametrize(
    "change",
    [
        coronal,
        without("ImagePositionPatient"),
        without("PixelSpacing"),
        with_value("ImageType", ["ORIGINAL", "PRIMARY", "LOCALIZER"]),
        with_value("ImageOrientationPatient", [1, 0, 0, 1, 0, 0]),
        with_value("NumberOfFrames", 2),
        with_value("Rows", 8),
        with_value("ImagePositionPatient", [1, 2]),
        lambda _: image(
            SOPInstanceUID="1.2.3", SOPClassUID="1.2.840.10008.5.1.4.1.1.88.11"
        ),
    ],
)
def test_what_is_no_one_stack_goes_by_instance_number(put, change):
    slices = ct_slices(5)
    slices[1] = change(slices[1])
    for number, one in zip((3, 1, 5, 2, 4), slices, strict=True):
        one.InstanceNumber = number
    assert numbers(named(put, slices)) == [3, 1, 5, 2, 4]


def test_without_a_direction_there_is_no_way_to_go_along(put):
    flat = [
        with_value("ImageOrientationPatient", [1, 0, 0, 1, 0, 0])(one)
        for one in ct_slices(3)
    ]
    for number, one in zip((2, 3, 1), flat, strict=True):
        one.InstanceNumber = number
    assert numbers(named(put, flat)) == [2, 3, 1]


def test_equal_numbers_go_by_uid_and_those_without_one_last(put):
    reports = [image(SOPInstanceUID=f"1.2.{n}", InstanceNumber=7) for n in (3, 1, 2)]
    reports += [
        image(SOPInstanceUID="1.2.0"),
        image(SOPInstanceUID="1.0", InstanceNumber=9),
    ]
    for seed in range(3):
        assert numbers(named(put, reports, seed=seed)) == [3, 1, 2, 5, 4]


def test_objects_of_several_frames_and_what_is_not_dicom_have_names_too(put):
    frames = native(np.zeros((3, 4, 6), np.uint8), InstanceNumber=2)
    many = [b"not dicom", frames, *ct_slices(2), b""]
    names = named(put, many)
    assert sorted(names) == [f"{n:04}.dcm" for n in range(1, 6)]
    assert numbers(names)[1:4] == [1, 3, 2]
    uids = named(put, many, "SOPInstanceUID")
    uuid = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}\.dcm")
    assert [bool(uuid.fullmatch(name)) for name in uids] == [True, *[False] * 3, True]


@pytest.mark.filterwarnings("ignore:Invalid value for VR UI:UserWarning")
@pytest.mark.parametrize(
    ("uid", "name"),
    [
        ("1.2.3.4", "1.2.3.4.dcm"),
        ("../../../etc/passwd", "_.._.._etc_passwd.dcm"),
        ("CON.1", "_CON.1.dcm"),
        ("1." * 31 + "9", "1." * 31 + "9.dcm"),
    ],
)
def test_a_uid_of_a_header_is_made_safe(put, uid, name):
    place = "1.2." + "7" * (len(uid) - 4)
    data = saved(image(SOPInstanceUID=place)).replace(place.encode(), uid.encode())
    assert named(put, [data], "SOPInstanceUID") == [name]


def test_the_same_uid_twice_is_left_for_the_plan_to_see(put):
    one, two = ct_slices(2)
    two.SOPInstanceUID = one.SOPInstanceUID
    assert len(set(named(put, [one, two], "SOPInstanceUID"))) == 1
    assert len(set(named(put, [one, two]))) == 2


def test_a_lone_object_is_the_first_and_is_not_read(put):
    assert named(put, [b"anything"]) == ["0001.dcm"]


def test_there_are_as_many_digits_as_the_last_slice_needs(put, monkeypatch):
    monkeypatch.setattr(naming, "DIGITS", 1)
    assert named(put, ct_slices(9))[0] == "1.dcm"
    assert named(put, ct_slices(10))[0] == "01.dcm"


def test_only_the_objects_that_are_meant_are_counted(put):
    manifest, mirror, keys = put(ct_slices(6))
    chosen = [keys[at] for at in (4, 1, 3)]
    uuids = packed([UUID(Path(key).stem).bytes for key in chosen])
    column = subset_column([0] * 3, uuids, 1)
    own = Manifest(manifest.table.append_column(ONLY, column), 25)
    names = file_names(own, "slice", mirror)
    assert [names[key] for key in chosen] == ["0003.dcm", "0001.dcm", "0002.dcm"]
    assert len(names) == len(file_names(own, "SOPInstanceUID", mirror)) == 3


@pytest.fixture
def several(put):
    """Three series in one manifest, their mirror, and the keys of each."""
    found = [put(ct_slices(count), seed=count) for count in (3, 1, 4)]
    table = pa.concat_tables([manifest.table for manifest, _, _ in found])
    return Manifest(table, 25), found[0][1], [keys for _, _, keys in found]


@pytest.mark.parametrize("kind", KINDS)
def test_names_do_not_depend_on_how_many_are_made_at_once(several, monkeypatch, kind):
    manifest, mirror, keys = several
    whole = file_names(manifest, kind, mirror)
    assert list(whole) == [key for own in keys for key in sorted(own)]
    assert all(key in whole for key in whole)
    assert whole[keys[2][0]] == dict(whole)[keys[2][0]]
    monkeypatch.setattr(naming, "AT_ONCE", 2)
    assert file_names(manifest, kind, mirror) == whole
    names, listed = Names(), list(list_all(list(manifest.parts()), mirror))
    for one, given_on in zip(listed, follow(listed, names, kind, mirror), strict=True):
        assert given_on == one
        assert all(own.key in names for own in one.instances)
    assert names == whole
    for missing in ("x/y.dcm", f"{manifest.uuids[0]}/y.dcm", manifest.uuids[0], ""):
        assert missing not in whole


def known(manifest, mirror, **columns):
    """A table of a manifest's objects, as an export would state them."""
    listed = instances(manifest.parts(), mirror)
    table = pa.table(
        {
            "crdc_series_uuid": [one.part.crdc_series_uuid for one in listed],
            "crdc_instance_uuid": [one.crdc_instance_uuid for one in listed],
            "instance_size": [one.size for one in listed],
            **{name: [give(one) for one in listed] for name, give in columns.items()},
        }
    )
    return ObjectTable(table, manifest)


def test_uids_that_are_known_are_not_read(several, tmp_path):
    manifest, mirror, _ = several
    expected = file_names(manifest, "SOPInstanceUID", mirror)
    stated = {key: name.removesuffix(".dcm") for key, name in expected.items()}
    objects = known(manifest, mirror, SOPInstanceUID=lambda one: stated[one.key])
    shutil.rmtree(tmp_path / "idc-open-data")
    own = objects.attach(manifest)
    names = file_names(own, "SOPInstanceUID", mirror, objects=objects)
    assert names == expected
    assert not names.problems


def test_uids_that_are_not_stated_are_read(several):
    manifest, mirror, keys = several
    expected = file_names(manifest, "SOPInstanceUID", mirror)
    lacking = keys[0][0]
    objects = known(
        manifest,
        mirror,
        SOPInstanceUID=lambda one: None if one.key == lacking else f"9.{one.size}",
    )
    names = file_names(manifest, "SOPInstanceUID", mirror, objects=objects)
    assert names[lacking] == expected[lacking]
    assert {name[:2] for key, name in names.items() if key != lacking} == {"9."}
    unnamed = known(manifest, mirror)
    assert file_names(manifest, "SOPInstanceUID", mirror, objects=unnamed) == expected


def test_what_cannot_be_listed_has_no_names_and_a_reason(several, tmp_path):
    manifest, mirror, keys = several
    (tmp_path / "idc-open-data" / keys[0][1]).unlink()
    shutil.rmtree(tmp_path / "idc-open-data" / manifest.uuids[1])
    for kind in KINDS:
        names = file_names(manifest, kind, mirror)
        assert set(names) == set(keys[2])
        assert set(names.problems) == {f"{uuid}/" for uuid in manifest.uuids[:2]}
        assert "lists 2 objects" in names.problem(keys[0][0])
        assert "holds no object" in names.problem(keys[1][0])
        assert names.problem(keys[2][0]) is None


def test_what_cannot_be_read_has_no_name_and_a_reason(several, tmp_path):
    manifest, mirror, keys = several
    own = known(manifest, mirror).attach(manifest)
    gone = keys[2][1]
    (tmp_path / "idc-open-data" / gone).unlink()
    by_uid = file_names(own, "SOPInstanceUID", mirror)
    assert {key for own in keys for key in own} - set(by_uid) == {gone}
    assert list(by_uid.problems) == [gone]
    # Of slices nothing is known, since every number may be another.
    by_slice = file_names(own, "slice", mirror)
    assert set(by_slice) == {*keys[0], *keys[1]}
    assert "1 of 4 headers" in by_slice.problem(keys[2][0])


def test_a_series_goes_on_with_what_has_a_name_and_says_what_has_none(
    several, tmp_path
):
    manifest, mirror, keys = several
    own = known(manifest, mirror).attach(manifest)
    gone = keys[2][1]
    (tmp_path / "idc-open-data" / gone).unlink()
    for kind, left in (("SOPInstanceUID", 3), ("slice", 0)):
        names = Names()
        listed = list_all(list(own.parts()), mirror)
        found = list(follow(listed, names, kind, mirror))
        assert [len(one.instances) for one in found] == [3, 1, left]
        assert [len(one.errors) for one in found] == [0, 0, 1]
        assert {one.key for own in found for one in own.instances} == set(names)
        assert gone in str(found[2].errors[0])


def test_names_of_two_runs_of_a_series_are_its_names(put):
    manifest, mirror, keys = put(ct_slices(5))
    runs = manifest.split(max_instances=2)
    table = pa.concat_tables([run.table for run in runs])
    names = file_names(Manifest(table, 25), "SOPInstanceUID", mirror)
    assert len(runs) == 3
    assert names == file_names(manifest, "SOPInstanceUID", mirror)
    assert len(names) == len(keys)


def test_a_kind_of_names_that_is_none_is_refused(several):
    manifest, mirror, _ = several
    with pytest.raises(RequestError, match="did you mean 'slice'"):
        file_names(manifest, "slices", mirror)
    with pytest.raises(RequestError, match="'uuid', 'SOPInstanceUID', 'slice'"):
        follow([], Names(), "", mirror)


def test_names_travel(several):
    manifest, mirror, _ = several
    names = file_names(manifest, "slice", mirror)
    assert pickle.loads(pickle.dumps(names)) == names
    assert repr(names) == "<Names: 8, problems: 0>"
