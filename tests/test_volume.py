"""Geometry of series, on positions and orientations of real headers.

The numbers were read from headers of public files, in the repositories
neurolabusc/dcm_qa_ct, dcm_qa_nih and dcm_qa_stc, icometrix/dicom2nifti and
moloney/dcmstack.
"""

from __future__ import annotations

import math
import pickle
import random

import numpy as np
import pydicom
import pydicom.data
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from intake_idc import dicom, sample_path, volume
from intake_idc.errors import GeometryError
from intake_idc.volume import Grid, Slice, arrange

AXIAL = [1.0, 0.0, 0.0, 0.0, 1.0, 0.0]
SAGITTAL = [0, 1, 0, 0, 0, -1]
TILTED = [1, 0, 0, 0, 0.9483237, -0.3173047]


def headers(places, orientation=AXIAL, spacing=(0.5, 0.5), size=(512, 512), **more):
    """Values of the headers of slices; a list among `more` has one for each."""
    for number, place in enumerate(places):
        yield {
            "SOPInstanceUID": f"1.2.{number}",
            "Rows": size[0],
            "Columns": size[1],
            "SamplesPerPixel": 1,
            "BitsAllocated": 16,
            "BitsStored": 16,
            "PixelRepresentation": 1,
            "ImagePositionPatient": list(place),
            "ImageOrientationPatient": orientation,
            "PixelSpacing": list(spacing),
            "InstanceNumber": number + 1,
            **{
                keyword: value[number] if isinstance(value, list) else value
                for keyword, value in more.items()
            },
        }


def slices(values, start=0):
    return [Slice.from_values(one, index) for index, one in enumerate(values, start)]


def up(x, y, *heights):
    return [(x, y, z) for z in heights]


# Real series. What is expected was worked out by hand.

REGULAR = slices(
    headers(
        up(-115.5, -1.85, *(round(696.21 + 5 * k, 2) for k in range(28))),
        spacing=(0.451171875, 0.451171875),
    )
)
SOMATOM = up(
    -106.791015625,
    -256.61886606561,
    -61.951915066986,
    -56.951915066986,
    -51.951915066986,
    -46.951915066986,
)
TILT_14 = slices(
    headers(
        SOMATOM,
        [1, 0, 0, 0, 0.970295726276, -0.2419218955997],
        (0.41796875, 0.41796875),
    )
)
# GantryDetectorTilt is -18.5 here, and +18.5 in files of another maker with the same
# orientation.
TILT_18 = slices(
    headers(
        up(-123.5, -15.64097, *(742.345191756896 + 2.5 * k for k in range(54))),
        TILTED,
        (0.482421875, 0.482421875),
        GantryDetectorTilt=-18.5,
    )
)
TWO_SLABS = slices(
    headers(
        up(
            -125.0,
            -123.5404569,
            *(round(5.8360586 + 4.22 * k, 7) for k in range(14)),
            *(round(61.8360586 + 7.38 * k, 7) for k in range(14)),
        ),
        TILTED,
        GantryDetectorTilt="+18.5",
    )
)
MISSING = slices(
    headers(
        up(-123.5, -115.199997, 18.1075, 23.1075, 28.107498, 38.107498),
        spacing=(0.429688006639, 0.429688006639),
        AcquisitionNumber=[4, 4, 5, 5],
    )
)
MISSING_TILTED = slices(
    headers(
        up(
            -130.744140625,
            -316.09603548484,
            -52.692148177628,
            -51.914148177628,
            -51.136148177628,
            -49.580148177628,
        ),
        [1, 0, 0, 0, 0.96363045320862, -0.2672383760783],
        (0.51171875, 0.51171875),
    )
)
ONE_PLACE = slices(
    headers(
        [(-139.2275390625, -384.2275390625, 61.5)] * 4,
        AcquisitionNumber=[15, 14, 13, 12],
    )
)
TWO_DIRECTIONS = slices(
    headers(
        [
            (21.2970258926457, -131.0381768455, 136.85565189706),
            (17.9998981689518, -131.00080616373, 136.988106769192),
        ],
        [
            *(0.01587762124836, 0.99323856830596, 0.11500004678964),
            *(-0.0385642088949, 0.11553729325532, -0.9925542473793),
        ],
        (0.31999999284744, 0.31999999284744),
        size=(288, 288),
    )
) + slices(
    headers(
        [
            (-86.725048585449, -41.604496164053, -15.585296122403),
            (-86.565964742218, -42.680278939932, -11.321801511616),
        ],
        [
            *(0.99912995100021, -0.0113245164975, -0.0401379205286),
            *(0.02078674733638, 0.96958416700363, 0.24387390911579),
        ],
        (0.55555558204650, 0.55555558204650),
        size=(288, 288),
    ),
    start=2,
)
WITH_LOCALIZER = REGULAR + slices(
    headers(
        [(0, -124.8, 916.5)],
        SAGITTAL,
        (0.9765625, 0.9765625),
        (256, 512),
        ImageType=["ORIGINAL\\PRIMARY\\LOCALIZER"],
    ),
    start=28,
)
# One orientation, written with other last digits: a comparison of texts makes it two.
OTHER_DIGITS = slices(
    headers(
        up(-64.000001919919, -118.13729284881, -33.7, -23.2, -12.7, -2.2),
        ImageOrientationPatient=[
            [1, -2.051034e-10, 0, 2.051034e-10, 1, 1.98754e-11],
            [1, 0, 0, 0, 1, 0],
            [1, -2.05e-10, 0, 2.05e-10, 1, 0],
            ["1.00000", "-0.00000", "0.00000", "-0.00000", "1.00000", "0.00000"],
        ],
    )
)
GE_EPI = [-17.6875, -12.6875, -7.68746, -2.68746, 2.31254, 7.31254]
GE_EPI += [12.3125 + 5 * k for k in range(9)]
FMRI = slices(
    headers(
        up(-118.125, -143.344, *(GE_EPI * 10)),
        [1.0, -0.0, 0.0, -0.0, 1.0, 0.0],
        (3.75, 3.75),
        (64, 64),
        NumberOfTemporalPositions=10,
        AcquisitionNumber=1,
        AcquisitionTime="114815",
        ContentTime="114815",
        EchoTime=30.0,
    )
)
STATED_TIME = slices(
    headers(
        up(-106.652, -106.165, *([-9.68721, -6.38721, -3.08721, 0.212795] * 2)),
        [1, -0.0, 0, -0.0, 1, 0],
        (3.2969, 3.2969),
        (64, 64),
        TemporalPositionIdentifier=[1, 1, 1, 1, 2, 2, 2, 2],
        TriggerTime=[187, 937, 375, 1125, 1687, 2437, 1875, 2625],
    )
)
# The same, without the element that says the time: each slice has its own.
TRIGGERED = slices(
    headers(
        up(-106.652, -106.165, *([-9.68721, -6.38721, -3.08721, 0.212795] * 2)),
        TriggerTime=[187, 937, 375, 1125, 1687, 2437, 1875, 2625],
        InstanceNumber=None,
    )
)
FFE = [
    (-107.39427027158, -115.70899950666, 77.0511683747832),
    (-107.40329143456, -115.77764879865, 76.053564004666),
    (-107.41231259755, -115.84629713697, 75.0559672639434),
    (-107.42133376054, -115.91494642896, 74.0583628938262),
]
PARTS = slices(
    headers(
        FFE * 2,
        [
            *(0.99753880500793, 0.06875436007976, -0.0137518225237),
            *(-0.0695334002375, 0.99526888132095, -0.0678594484925),
        ],
        (0.29947915673255, 0.29947915673255),
        (768, 768),
        EchoTime=0,
        DiffusionBValue=0.0,
        ImageType=[["ORIGINAL", "PRIMARY", "SW_M_FFE", "SW_M", "FFE"]] * 4
        + [["ORIGINAL", "PRIMARY", "SW_P_FFE", "SW_P", "FFE"]] * 4,
        InstanceNumber=[1, 5, 9, 13, 521, 525, 529, 533],
        RescaleSlope=[3.90695970695970] * 4 + [1.53455433455433] * 4,
        RescaleIntercept=[0] * 4 + [-3142] * 4,
    )
)
DIFFUSION = slices(
    headers(
        [(-126.69044348038, -149.40833350829, -41.031010647653)] * 4
        + [(-126.69197317399, -149.40829154662, -39.031010647653)] * 4,
        [
            *(0.99964129924774, -0.0267702620476, 0.00076516985427),
            *(0.02677026949822, 0.99964159727096, 1.8300977053e-12),
        ],
        (2, 2),
        DiffusionBValue=[0.0, 1000.0, 1000.0, 1000.0] * 2,
        InstanceNumber=[33, 34, 35, 36, 99, 100, 101, 102],
    )
)
ECHOES = slices(
    headers(
        up(
            -64.000001919919,
            -118.13729284881,
            *(-2.2076272977198, -23.207628251394, -33.707626344045),
            *(-23.207628251394, -33.707626344045),
            *(-23.207628251394, -33.707626344045),
        ),
        [1, -2.051034e-010, 0, 2.051034e-010, 1, 1.98754e-011],
        (0.66666668653488, 0.66666668653488),
        (192, 192),
        EchoTime=[20, 20, 20, 40, 40, 60, 60],
        InstanceNumber=[4, 2, 1, 8, 7, 14, 13],
        SliceThickness=7,
    )
)
OWN_SLOPES = slices(
    headers(
        [
            (-83.429662112195, -132.1349194459, -143.92534345894),
            (-83.438320216771, -132.13707439339, -143.42542306094),
            (-83.446978321347, -132.13922934088, -142.92550266294),
            (-83.455636425923, -132.14138428837, -142.42558226495),
        ],
        [
            *(0.99921870231628, 0.03545736894011, 0.01745827682316),
            *(-0.0355269648134, 0.99936187267303, 0.00369254057295),
        ],
        (4.0, 6.39995861053464),
        (28, 64),
        RescaleSlope=[0.0010346139, 0.0010206557, 0.001298346, 0.0029214132],
        RescaleIntercept=33.901196,
    )
)
MOSAIC = slices(
    headers(
        [(-324, -324, 16)] * 2,
        spacing=(3, 3),
        size=(216, 216),
        ImageType=["ORIGINAL\\PRIMARY\\M\\ND\\ECHO_00\\MOSAIC"] * 2,
        AcquisitionNumber=[1, 2],
    )
)
SINGLE = slices(headers([(-342.11, -528.749, -278.5)], SliceThickness=5))

SERIES = {
    "regular": (REGULAR, "regular", [(28, 512, 512)], ""),
    "tilt 14": (TILT_14, "tilted", [(4, 512, 512)], "sheared by 14.00 degrees"),
    "tilt 18.5": (TILT_18, "tilted", [(54, 512, 512)], "sheared by 18.50 degrees"),
    "two slabs": (TWO_SLABS, "not a volume", [(28, 512, 512)], "vary from 1.08109 to"),
    "missing": (MISSING, "missing", [(4, 512, 512)], "1 missing at 33.1075 mm, 5 mm"),
    "missing, tilted": (
        MISSING_TILTED,
        "missing",
        [(4, 512, 512)],
        "1 missing at -133 mm, 0.749704 mm",
    ),
    "one place": (ONE_PLACE, "not a volume", [(4, 1, 512, 512)], "all 4 slices lie at"),
    "two directions": (
        TWO_DIRECTIONS,
        "several stacks",
        [(2, 288, 288), (2, 288, 288)],
        "2 stacks, which differ in PixelSpacing (0.32\\0.32 and 0.5556\\0.5556)",
    ),
    "localizer": (
        WITH_LOCALIZER,
        "localizers set aside",
        [(28, 512, 512)],
        "1 set aside: localizer",
    ),
    "other digits": (OTHER_DIGITS, "regular", [(4, 512, 512)], ""),
    "time": (FMRI, "regular", [(10, 15, 64, 64)], ""),
    "stated time": (STATED_TIME, "regular", [(2, 4, 64, 64)], ""),
    "triggered": (TRIGGERED, "regular", [(2, 4, 512, 512)], ""),
    "parts": (PARTS, "regular", [(2, 4, 768, 768)], ""),
    "diffusion": (DIFFUSION, "regular", [(4, 2, 512, 512)], ""),
    "incomplete echoes": (
        ECHOES,
        "missing",
        [(7, 192, 192)],
        "echo_time 40.0 has no slice at -2.20763 mm",
    ),
    "own slopes": (OWN_SLOPES, "regular", [(4, 28, 64)], ""),
    "mosaic": (MOSAIC, "not a volume", [(2, 1, 216, 216)], "images are mosaics"),
    "single": (SINGLE, "not a volume", [(1, 512, 512)], "one slice only"),
    "nothing": ([], "not a volume", [], "there are no slices"),
    "two sizes": (
        REGULAR
        + slices(headers(up(0, 0, 1, 2, 3), size=(64, 64)), start=28)
        + slices(headers(up(0, 0, 1, 2, 3), size=(64, 32)), start=31),
        "mixed sizes",
        [(28, 512, 512), (3, 64, 64), (3, 64, 32)],
        "Rows x Columns (512x512 and 64x32 and 64x64)",
    ),
    "two frames of reference": (
        slices(headers(up(0, 0, 1, 2, 3), FrameOfReferenceUID="1.2"))
        + slices(headers(up(0, 0, 1, 2, 3), FrameOfReferenceUID="1.3"), start=3),
        "several stacks",
        [(3, 512, 512), (3, 512, 512)],
        "frame of reference",
    ),
    "copies": (
        slices(headers(up(0, 0, 1, 2, 3, 4))) + slices(headers(up(0, 0, 3)), start=4),
        "duplicate",
        [(5, 512, 512)],
        "2 at 3 mm (instances 4, 2); elsewhere 1",
    ),
    "shifted sideways": (
        slices(headers([(0, 0, 1), (0, 0, 2), (0.5, 0, 3), (0, 0, 4)])),
        "not a volume",
        [(4, 512, 512)],
        "0.5 mm in plane from a straight line",
    ),
    "skewed": (
        slices(headers(up(0, 0, 1, 2, 3), [1, 0, 0, 0.5, 0.8660254, 0])),
        "not a volume",
        [(3, 512, 512)],
        "not at right angles",
    ),
    "no direction": (
        slices(headers(up(0, 0, 1, 2, 3), [1, 0, 0, 1, 0, 0])),
        "not a volume",
        [(3, 512, 512)],
        "not at right angles",
    ),
    "an image without a place": (
        REGULAR + slices([{"Rows": 512, "Columns": 512}], start=28),
        "not a volume",
        [(28, 512, 512)],
        "no ImagePositionPatient, ImageOrientationPatient, PixelSpacing",
    ),
    "an object without an image": (
        REGULAR + slices([{"SOPClassUID": "1.2.840.10008.5.1.4.1.1.66"}], start=28),
        "regular",
        [(28, 512, 512)],
        "1 set aside: no image",
    ),
}
FINE = {"regular", "tilted", "localizers set aside", "several stacks", "mixed sizes"}


@pytest.mark.parametrize(
    ("series", "verdict", "shapes", "reason"), SERIES.values(), ids=SERIES
)
def test_a_series_is_arranged_and_judged(series, verdict, shapes, reason):
    arranged = arrange(series, strict=False)
    assert arranged.verdict == verdict
    assert [stack.shape for stack in arranged.stacks] == shapes
    assert reason in "; ".join(arranged.reasons)
    assert bool(reason) == bool(arranged.reasons)
    assert arranged.regular == (verdict in FINE)
    placed = sum(map(len, arranged.stacks))
    assert placed + len(arranged.aside) == len(series)


@pytest.mark.parametrize("name", SERIES)
def test_what_is_no_volume_raises_with_its_reasons_under_strict(name):
    series, verdict, *_ = SERIES[name]
    if verdict in FINE:
        assert arrange(series) == arrange(series, strict=False)
        return
    with pytest.raises(GeometryError) as caught:
        arrange(series)
    assert caught.value.verdict == verdict
    assert caught.value.reasons == arrange(series, strict=False).reasons
    assert str(caught.value).startswith(f"{verdict}: ")
    assert pickle.loads(pickle.dumps(caught.value)).reasons == caught.value.reasons


@pytest.mark.parametrize(
    ("series", "name", "values", "shared"),
    [
        (FMRI, "time", tuple(range(1, 151, 15)), False),
        (STATED_TIME, "time", (1, 2), True),
        (TRIGGERED, "time", (187.0, 1687.0), False),
        (PARTS, "part", ("SW_M_FFE\\SW_M", "SW_P_FFE\\SW_P"), True),
        (ONE_PLACE, "acquisition", (12, 13, 14, 15), True),
        (
            DIFFUSION,
            "b_value_instance",
            ((0.0, 33), (1000.0, 34), (1000.0, 35), (1000.0, 36)),
            False,
        ),
    ],
    ids=["instances", "positions", "trigger", "parts", "acquisition", "diffusion"],
)
def test_what_tells_slices_of_a_place_apart_is_the_leading_axis(
    series, name, values, shared
):
    axis = arrange(series, strict=False).stacks[0].axis
    assert (axis.name, axis.values, axis.shared) == (name, values, shared)


def test_two_things_at_once_make_one_axis_of_pairs():
    places = up(0, 0, *([1, 2, 3] * 4))
    values = headers(
        places,
        EchoTime=[5, 5, 5, 5, 5, 5, 9, 9, 9, 9, 9, 9],
        ImageType=[["A", "B", "M"]] * 3
        + [["A", "B", "P"]] * 3
        + [["A", "B", "M"]] * 3
        + [["A", "B", "P"]] * 3,
    )
    stack = arrange(slices(values)).stacks[0]
    assert stack.axis.name == "echo_part"
    assert stack.axis.values == ((5.0, "M"), (5.0, "P"), (9.0, "M"), (9.0, "P"))
    assert stack.shape[:2] == (4, 3)
    assert stack.order == tuple(range(12))


def test_an_echo_that_is_elsewhere_another_is_never_ordered_by_instance_number():
    values = headers(up(0, 0, 1, 1, 2, 2), EchoTime=[20, 40, 20, 60])
    arranged = arrange(slices(values), strict=False)
    assert arranged.verdict == "missing"
    assert "echo_time 40.0 has no slice at 2 mm" in arranged.reasons[0]


def test_echoes_of_unequal_number_are_not_ordered_by_instance_number():
    values = headers(
        up(0, 0, 1, 1, 1, 2, 2, 2, 3, 3, 3), EchoTime=[5, 5, 9, 5, 9, 9, 5, 5, 9]
    )
    arranged = arrange(slices(values), strict=False)
    assert arranged.verdict == "duplicate"
    assert arranged.stacks[0].axis is None


def test_slices_go_up_along_the_normal_whatever_their_numbers():
    stack = arrange(PARTS).stacks[0]
    # Heights fall with the instance numbers.
    assert stack.order == (3, 2, 1, 0, 7, 6, 5, 4)
    assert list(stack.positions[:4]) == sorted(stack.positions[:4])
    assert stack.corners[0] == FFE[3]
    assert stack.slopes == (3.90695970695970,) * 4 + (1.53455433455433,) * 4
    assert stack.intercepts == (0.0,) * 4 + (-3142.0,) * 4


def test_the_slope_of_each_slice_is_kept():
    stack = arrange(OWN_SLOPES).stacks[0]
    assert stack.slopes == (0.0010346139, 0.0010206557, 0.001298346, 0.0029214132)
    assert arrange(REGULAR).stacks[0].slopes == (1.0,) * 28


def test_a_tilted_stack_keeps_its_true_step():
    stack = arrange(TILT_18).stacks[0]
    assert stack.affine[:3, 0] == pytest.approx([0, 0, 2.5], abs=1e-12)
    assert stack.spacing[0] == pytest.approx(2.5 * math.cos(math.radians(18.5)), 1e-6)
    assert stack.tilt == pytest.approx(18.5, abs=1e-4)
    assert not stack.orthogonal
    for one in TILT_18:
        place = stack.order.index(one.index)
        assert stack.grid.to_mm([place, 0, 0]) == pytest.approx(one.position, abs=1e-9)


def test_a_regular_stack_is_orthogonal():
    stack = arrange(REGULAR).stacks[0]
    assert stack.orthogonal
    assert stack.tilt == 0
    assert stack.spacing == pytest.approx((5.0, 0.451171875, 0.451171875))
    assert stack.grid.origin == (-115.5, -1.85, 696.21)


def test_an_incomplete_stack_knows_its_lattice():
    stack = arrange(MISSING, strict=False).stacks[0]
    assert stack.grid is None
    assert stack.missing == pytest.approx([33.107498])
    assert stack.lattice.shape == (5, 512, 512)
    assert stack.slots == (0, 1, 2, 4)
    uneven = arrange(TWO_SLABS, strict=False).stacks[0]
    assert uneven.lattice is None
    assert uneven.slots == uneven.missing == ()


def test_a_lone_slice_has_the_grid_of_its_thickness():
    stack = arrange(SINGLE, strict=False).stacks[0]
    assert stack.spacing == (5.0, 0.5, 0.5)


def test_localizers_alone_are_slices_like_others():
    series = slices(headers(up(0, 0, 1, 2, 3), ImageType=["A\\B\\LOCALIZER"] * 3))
    assert arrange(series).verdict == "regular"


def test_two_slices_of_one_name_are_refused():
    with pytest.raises(GeometryError, match="two slices are called index 0, frame 0"):
        arrange([REGULAR[0], REGULAR[0]], strict=False)


def test_a_series_of_as_many_directions_as_slices_is_arranged():
    """A hostile series: every slice is a stack of its own."""
    angles = np.linspace(0, math.pi, 2000)
    values = (
        value
        for angle in angles
        for value in headers(
            [(0, 0, 0)], [math.cos(angle), math.sin(angle), 0, 0, 0, -1]
        )
    )
    arranged = arrange(slices(values), strict=False)
    assert len(arranged.stacks) == 2000


# Properties.

finite = st.floats(-500, 500, allow_nan=False)
angles = st.floats(0, 2 * math.pi)


@st.composite
def directions(draw):
    """A rotation, as rows: of a row, of a column, of the normal."""
    a, b, c = draw(angles), draw(angles), draw(angles)
    ca, sa, cb, sb, cc, sc = (f(v) for v in (a, b, c) for f in (math.cos, math.sin))
    x = np.array([[1, 0, 0], [0, ca, -sa], [0, sa, ca]])
    y = np.array([[cb, 0, sb], [0, 1, 0], [-sb, 0, cb]])
    z = np.array([[cc, -sc, 0], [sc, cc, 0], [0, 0, 1]])
    return x @ y @ z


@st.composite
def stacks(draw, least=2, tilt=60.0):
    """An affine, and the headers of slices that lie on it."""
    rotation = draw(directions())
    between = draw(st.floats(0.05, 20))
    spacing = [draw(st.floats(0.05, 10)) for _ in range(2)]
    lean = between * math.tan(math.radians(draw(st.floats(0, tilt))))
    toward = draw(angles)
    step = rotation.T @ [
        lean * math.cos(toward),
        lean * math.sin(toward),
        between,
    ]
    origin = np.array([draw(finite) for _ in range(3)])
    many = draw(st.integers(least, 12))
    affine = np.eye(4)
    affine[:3, 0] = step
    affine[:3, 1] = rotation[1] * spacing[0]
    affine[:3, 2] = rotation[0] * spacing[1]
    affine[:3, 3] = origin
    places = [(origin + number * step).tolist() for number in range(many)]
    orientation = [*rotation[0].tolist(), *rotation[1].tolist()]
    return affine, slices(headers(places, orientation, spacing, (7, 5)))


@given(stacks())
def test_a_made_stack_gives_its_own_affine_back(made):
    affine, series = made
    stack = arrange(series).stacks[0]
    assert stack.shape == (len(series), 7, 5)
    scale = np.abs(affine).max()
    assert np.abs(stack.affine - affine).max() <= 1e-9 * scale
    assert stack.order == tuple(range(len(series)))


@given(st.sampled_from(sorted(SERIES)), st.integers(0, 1000))
def test_any_order_of_slices_gives_the_same_arrangement(name, seed):
    series = list(SERIES[name][0])
    expected = arrange(series, strict=False)
    random.Random(seed).shuffle(series)  # noqa: S311
    assert arrange(series, strict=False) == expected


@given(stacks(least=4), st.data())
def test_an_inner_slice_that_is_taken_out_is_told_by_its_position(made, data):
    _, series = made
    lost = data.draw(st.integers(1, len(series) - 2))
    whole = arrange(series).stacks[0]
    rest = arrange([s for s in series if s.index != lost], strict=False)
    assert rest.verdict == "missing"
    assert rest.stacks[0].missing == pytest.approx([whole.positions[lost]], abs=1e-6)
    assert np.allclose(rest.stacks[0].lattice.affine, whole.affine)


@given(stacks(least=3), st.data())
def test_a_slice_that_is_there_twice_is_a_duplicate(made, data):
    _, series = made
    twice = data.draw(st.sampled_from(series))
    copy = Slice(**{**vars(twice), "index": 99, "uid": "9.9", "instance_number": 99})
    arranged = arrange([*series, copy], strict=False)
    assert arranged.verdict == "duplicate"
    assert f"instances {twice.index}, 99" in arranged.reasons[0]


@given(stacks(), st.lists(st.tuples(finite, finite, finite), min_size=1))
def test_index_to_mm_and_back_is_where_one_started(made, indices):
    affine, series = made
    grid = arrange(series).stacks[0].grid
    # The error of a way there and back grows with the shear.
    bound = 1e-9 * np.linalg.cond(affine[:3, :3]) * 1e3
    back = grid.to_index(grid.to_mm(indices))
    assert np.abs(back - indices).max() <= bound


@given(stacks(tilt=0.001))
def test_the_index_gives_the_grid_that_the_headers_give(made):
    _, series = made
    stack = arrange(series).stacks[0]
    assume(np.linalg.norm(stack.affine[:3, 0]) * len(series) < 100)
    grid = volume.from_index(index_row(stack))
    assert grid.shape == stack.shape
    far = np.array(grid.shape) - 1
    assert np.linalg.norm(grid.to_mm(far) - stack.grid.to_mm(far)) < 0.1


any_number = st.one_of(
    st.none(), st.integers(-5, 5), st.floats(), st.text(max_size=3), st.booleans()
)


@given(
    st.dictionaries(
        st.sampled_from(volume.KEYWORDS),
        any_number
        | st.lists(any_number, max_size=7)
        | st.dictionaries(st.text(), any_number),
    )
)
def test_any_values_make_a_slice_or_a_geometry_error(values):
    try:
        one = Slice.from_values(values)
    except GeometryError:
        return
    arrange([one], strict=False)


few = st.sampled_from([0.0, 1.0, -1.0, 1e-4, 1e6, 0.5])


@given(
    st.lists(
        st.tuples(
            st.tuples(few, few, few),
            st.sampled_from([AXIAL, SAGITTAL, TILTED, [1, 0, 0, 1, 1e-8, 0]]),
            st.sampled_from([None, 1, 2]),
            st.sampled_from([None, 10.0, 20.0]),
        ),
        max_size=12,
    )
)
def test_any_slices_are_arranged_without_a_loss(given_slices):
    series = [
        Slice.from_values(
            {
                **next(headers([place], orientation)),
                "TemporalPositionIdentifier": time,
                "EchoTime": echo,
            },
            index,
        )
        for index, (place, orientation, time, echo) in enumerate(given_slices)
    ]
    arranged = arrange(series, strict=False)
    indices = [index for stack in arranged.stacks for index in stack.order]
    assert sorted(indices) == list(range(len(series)))
    for stack in arranged.stacks:
        assert math.prod(stack.shape[:-2]) == len(stack)
        assert len(stack.corners) == len(stack.slopes) == len(stack)
        assert stack.regular == (stack.verdict in {"regular", "tilted"})


# Values of headers.


@pytest.mark.parametrize(
    ("keyword", "value", "reason"),
    [
        ("ImagePositionPatient", [1, 2], "3 numbers are expected, not 2"),
        ("ImagePositionPatient", "1\\2\\x", "could not convert"),
        ("ImagePositionPatient", [1, 2, math.nan], "a finite number"),
        ("ImagePositionPatient", [1, 2, 1e300], "numbers up to 1000000"),
        ("ImageOrientationPatient", [0, 0, 0, 0, 1, 0], "has no length"),
        ("PixelSpacing", [0, 1], "distances above 0"),
        ("Rows", 0, "at least 1"),
        ("Columns", 1.5, "a whole number"),
        ("PixelRepresentation", 2, "0 or 1"),
        ("EchoTime", [1, 2], "one number is expected"),
        ("RescaleSlope", True, "one number is expected"),
        ("SOPInstanceUID", [1], "one text is expected"),
        ("ImageType", {"a": 1}, "a list is expected"),
    ],
)
def test_a_value_of_the_wrong_kind_says_so(keyword, value, reason):
    with pytest.raises(GeometryError, match=f"instance 7, frame 0: {keyword} is ") as e:
        Slice.from_values({keyword: value}, index=7)
    assert reason in e.value.reasons[0]


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("10", 36_000.0),
        ("100040.250000", 36_040.25),
        ("10:00:40", 36_040.0),
        ("00010101000001.5", 86_401.5),
        ("00010101000001.5+0100", 86_401.5),
        ("noon", None),
    ],
)
def test_times_are_seconds_or_nothing(text, seconds):
    assert Slice.from_values({"AcquisitionTime": text}).acquisition_time == seconds


def test_texts_numbers_and_lists_say_the_same():
    one = Slice.from_values({"ImagePositionPatient": "1\\2.5\\-3", "Rows": "12"})
    other = Slice.from_values({"ImagePositionPatient": (1, 2.5, -3.0), "Rows": 12})
    assert one == other
    assert Slice.from_values({"Rows": None, "EchoTime": " "}) == Slice(0)


def test_values_of_a_real_header_make_a_slice():
    path = pydicom.data.get_testdata_file("CT_small.dcm")
    header = dicom.values(pydicom.dcmread(path), volume.KEYWORDS)
    one = Slice.from_values(header)
    assert one.position == (-158.135803, -179.035797, -75.699997)
    assert (one.rows, one.columns, one.thickness) == (128, 128, 5.0)
    assert (one.slope, one.intercept, one.signed) == (1.0, -1024.0, True)


# Multi-frame objects.


def groups(place, **more):
    return {
        "PlanePositionSequence": [{"ImagePositionPatient": place}],
        "FrameContentSequence": {"TemporalPositionIndex": more.pop("time", None)},
        **more,
    }


SHARED = {
    "PlaneOrientationSequence": [{"ImageOrientationPatient": AXIAL}],
    "PixelMeasuresSequence": [{"PixelSpacing": [3.375, 3.375], "SliceThickness": 2.4}],
    "MREchoSequence": [{"EffectiveEchoTime": 30.0}],
    "PixelValueTransformationSequence": [{"RescaleSlope": 2, "RescaleIntercept": -5}],
    "ReferencedImageSequence": [{"PixelSpacing": [9, 9]}],
}
ENHANCED = {"Rows": 64, "Columns": 64, "BitsAllocated": 16, "EchoTime": 7.0}


def test_frames_of_an_enhanced_object_are_slices():
    frames = [
        groups([0, 0, 2.4 * k], time=time, MREchoSequence=[])
        for time in (1, 2)
        for k in range(3)
    ]
    made = volume.frame_slices(ENHANCED, frames, SHARED, index=4)
    assert [one.frame for one in made] == list(range(6))
    assert {one.echo_time for one in made} == {30.0}
    stack = arrange(made).stacks[0]
    assert stack.shape == (2, 3, 64, 64)
    assert (stack.axis.name, stack.axis.values) == ("time", (1, 2))
    assert stack.order == (4,) * 6
    assert stack.frames == tuple(range(6))
    assert stack.slopes == (2.0,) * 6


def test_flat_values_of_frames_say_the_same():
    flat = {"ImageOrientationPatient": AXIAL, "PixelSpacing": [3.375, 3.375]}
    nested = volume.frame_slices(
        ENHANCED,
        [{"PlanePositionSequence": [{"ImagePositionPatient": [0, 0, 1]}]}],
        {
            "PlaneOrientationSequence": [{"ImageOrientationPatient": AXIAL}],
            "PixelMeasuresSequence": [{"PixelSpacing": [3.375, 3.375]}],
        },
    )
    frames = [{"ImagePositionPatient": [0, 0, 1]}]
    assert volume.frame_slices(ENHANCED, frames, flat) == nested


def test_segments_with_all_frames_are_an_axis_and_others_say_what_they_lack():
    def frame(segment, height):
        return {
            "SegmentIdentificationSequence": [{"ReferencedSegmentNumber": segment}],
            "PlanePositionSequence": [{"ImagePositionPatient": [0, 0, height]}],
        }

    frames = [frame(segment, z) for segment in (1, 2) for z in (0, 1, 2)]
    whole = arrange(volume.frame_slices(ENHANCED, frames, SHARED))
    assert whole.stacks[0].axis.name == "segment"
    partly = volume.frame_slices(ENHANCED, frames[:-2], SHARED)
    arranged = arrange(partly, strict=False)
    assert arranged.verdict == "missing"
    assert arranged.reasons == ("segment 2 has no slice at 1, 2 mm",)
    assert arranged.stacks[0].lattice.shape == (3, 64, 64)
    assert arranged.stacks[0].slots == (0, 0, 1, 2)


def test_segments_one_after_the_other_are_not_one_volume():
    frames = [
        {"ReferencedSegmentNumber": 1 + z // 3, "ImagePositionPatient": [0, 0, z]}
        for z in range(6)
    ]
    made = volume.frame_slices(ENHANCED, frames, SHARED)
    arranged = arrange(made, strict=False)
    assert arranged.verdict == "missing"
    assert arranged.reasons[0].startswith("segment 1 has no slice at 3, 4, 5 mm")


def test_an_echo_for_each_place_is_told_and_no_fault():
    arranged = arrange(slices(headers(up(0, 0, 1, 2, 3), EchoTime=[5, 5, 9])))
    assert arranged.verdict == "regular"
    assert arranged.reasons == ("echo_time has 2 values, by place",)


def test_an_object_of_many_frames_is_not_taken_for_one_slice():
    (one,) = slices(headers([(0, 0, 1)], NumberOfFrames=8))
    arranged = arrange([*REGULAR, Slice(**{**vars(one), "index": 99})], strict=False)
    assert not arranged.regular
    assert "several frames" in arranged.reasons[0]
    made = volume.frame_slices({**ENHANCED, "NumberOfFrames": 2}, [{}, {}], SHARED)
    assert {one.frames for one in made} == {1}


DOSE = {
    "NumberOfFrames": 4,
    "Rows": 10,
    "Columns": 10,
    "ImagePositionPatient": [189.43125, 199.43125, -761.87],
    "ImageOrientationPatient": AXIAL,
    "PixelSpacing": [10, 10],
    "DoseGridScaling": 1e-6,
}


@pytest.mark.parametrize(
    "offsets", [[0, 5, 10, 15], [-761.87, -756.87, -751.87, -746.87]]
)
def test_planes_of_a_dose_are_slices(offsets):
    stack = arrange(volume.dose_slices(DOSE, offsets)).stacks[0]
    assert stack.spacing == pytest.approx((5, 10, 10))
    assert stack.grid.origin == (189.43125, 199.43125, -761.87)
    assert stack.frames == (0, 1, 2, 3)
    assert stack.slopes == (1e-6,) * 4


def test_a_dose_against_the_normal_still_goes_up():
    upside = {**DOSE, "ImageOrientationPatient": [1, 0, 0, 0, -1, 0]}
    stack = arrange(volume.dose_slices(upside, [-761.87, -756.87, -751.87])).stacks[0]
    assert stack.frames == (2, 1, 0)
    assert stack.corners[0][2] == pytest.approx(-751.87)


@pytest.mark.parametrize(
    ("values", "offsets", "reason"),
    [
        ({"ImagePositionPatient": None}, [0, 5], "without a usable position"),
        ({"ImageOrientationPatient": [1, 0, 0, 1, 0, 0]}, [0, 5], "without a usable"),
        ({}, [3, 8], "neither 0 nor the z"),
        ({"ImageOrientationPatient": SAGITTAL}, [-761.87, 8], "neither 0 nor the z"),
        ({}, [0, "x"], "GridFrameOffsetVector is"),
    ],
)
def test_a_dose_that_says_no_place_is_refused(values, offsets, reason):
    with pytest.raises(GeometryError, match=reason):
        volume.dose_slices({**DOSE, **values}, offsets)


def nested(dataset):
    """Functional groups as they stand, in plain values."""
    items = [element for element in dataset if element.keyword]
    return {
        element.keyword: [nested(item) for item in element.value]
        if element.VR == "SQ"
        else dicom.values(dataset, [element.keyword])[element.keyword]
        for element in items
    }


def sample(modality):
    """Headers of each series of the embedded sample that is of a modality."""
    for folder in sorted((sample_path() / "bucket").iterdir()):
        found = [pydicom.dcmread(path) for path in sorted(folder.glob("*.dcm"))]
        if found[0].Modality == modality:
            yield found


@pytest.mark.parametrize(
    ("modality", "spacings"),
    [
        ("CT", [(5, 0.451171875, 0.451171875)] * 2),
        ("MR", [(0.6, 1.0416666, 1.0416666)]),
    ],
)
def test_real_series_are_regular(modality, spacings):
    for found, spacing in zip(sample(modality), spacings, strict=True):
        series = slices(dicom.values(one, volume.KEYWORDS) for one in found)
        arranged = arrange(series)
        assert arranged.verdict == "regular"
        assert arranged.stacks[0].spacing == pytest.approx(spacing, abs=1e-5)


def test_a_real_segmentation_is_on_a_regular_grid():
    ((found,),) = sample("SEG")
    made = volume.frame_slices(
        dicom.values(found, volume.KEYWORDS),
        [nested(item) for item in found.PerFrameFunctionalGroupsSequence],
        nested(found.SharedFunctionalGroupsSequence[0]),
    )
    stack = arrange(made).stacks[0]
    assert stack.shape == (3, 16, 16)
    assert stack.spacing == pytest.approx((1.25, 0.488281, 0.488281), abs=1e-6)


def test_a_real_dose_is_on_a_regular_grid():
    folder = pydicom.data.get_testdata_file
    dose = pydicom.dcmread(folder("rtdose.dcm"))
    values = dicom.values(dose, [*volume.KEYWORDS, "DoseGridScaling"])
    offsets = [float(offset) for offset in dose.GridFrameOffsetVector]
    grid = arrange(volume.dose_slices(values, offsets)).stacks[0].grid
    assert grid.shape == (15, 10, 10)
    assert grid.spacing == pytest.approx((5, 10, 10))


# Systems of coordinates.


def test_ras_and_nifti_affines_place_a_voxel_where_lps_does():
    grid = arrange(TILT_14).stacks[0].grid
    k, j, i = 2, 30, 400
    lps = grid.to_mm([k, j, i])
    ras = lps * [-1, -1, 1]
    assert (grid.ras @ [k, j, i, 1])[:3] == pytest.approx(ras)
    assert (grid.nifti @ [i, j, k, 1])[:3] == pytest.approx(ras)
    assert volume.lps_to_ras(grid.ras) == pytest.approx(grid.affine)


def test_rows_and_columns_of_a_voxel_follow_the_equation_of_the_standard():
    """PS3.3 C.7.6.2.1.1: columns go along the first three cosines."""
    grid = arrange(OWN_SLOPES).stacks[0].grid
    row, column = 3, 5
    first = OWN_SLOPES[0]
    cosines = np.array(first.orientation)
    expected = (
        np.array(first.position)
        + cosines[:3] * 6.39995861053464 * column
        + cosines[3:] * 4.0 * row
    )
    assert grid.to_mm([0, row, column]) == pytest.approx(expected)


def test_a_grid_can_be_compared_hashed_and_sent():
    grid = arrange(TILT_14).stacks[0].grid
    again = pickle.loads(pickle.dumps(grid))
    assert again == grid
    assert hash(again) == hash(grid)
    assert pickle.loads(pickle.dumps(arrange(FMRI))) == arrange(FMRI)


# The index tables.


def index_row(stack, **other):
    return {
        "regularly_spaced_3d_volume": True,
        "origin_patient": list(stack.corners[0]),
        "ImageOrientationPatient": np.array(stack.orientation),
        "slice_spacing_mm": stack.spacing[0],
        "Rows": stack.shape[-2],
        "Columns": stack.shape[-1],
        "PixelSpacing_row_mm": stack.pixel_spacing[0],
        "PixelSpacing_col_mm": stack.pixel_spacing[1],
        "instanceCount": len(stack),
        **other,
    }


@pytest.mark.parametrize(
    "series", [REGULAR, OTHER_DIGITS, OWN_SLOPES], ids=["CT", "MR", "unequal spacing"]
)
def test_the_index_gives_shape_and_affine_without_an_object(series):
    stack = arrange(series).stacks[0]
    grid = volume.from_index(index_row(stack))
    assert grid.shape == stack.shape
    assert grid.affine == pytest.approx(stack.affine, abs=1e-5)


@pytest.mark.parametrize(
    ("other", "reason"),
    [
        (
            {"regularly_spaced_3d_volume": False, "uniform_slice_spacing": False},
            "uniform_slice_spacing is false",
        ),
        ({"regularly_spaced_3d_volume": False}, "no reason is published"),
        ({"origin_patient": None}, "no usable value of origin_patient"),
        ({"origin_patient": [1, 2]}, "no usable value of origin_patient"),
        ({"Rows": "x"}, "no usable value of Rows"),
        ({"slice_spacing_mm": math.nan}, "no usable value of slice_spacing_mm"),
        ({"slice_spacing_mm": 0.0}, "is not positive"),
        ({"instanceCount": 0}, "is not positive"),
        ({"ImageOrientationPatient": [1, 0, 0, 1, 0, 0]}, "not at right angles"),
    ],
)
def test_a_series_that_the_index_does_not_give_is_refused(other, reason):
    row = index_row(arrange(REGULAR).stacks[0], **other)
    with pytest.raises(GeometryError, match=reason):
        volume.from_index(row)


# Rescaling.


@pytest.mark.parametrize(
    ("stored", "slopes", "intercepts", "bits", "expected"),
    [
        ("uint16", 1, -1024, 12, "int16"),
        ("uint16", 1, -1024, None, "int32"),
        ("int16", 1, -1024, 16, "int32"),
        ("int16", 1, 0, 16, "int16"),
        ("uint8", 1, 0, 8, "int16"),
        ("uint16", [1, 1], [-1024, 0], 12, "int16"),
        ("uint16", [1, 0.5], 0, 12, "float32"),
        ("uint16", 40_000, 0, 16, "float32"),
        ("uint16", 0.00103, 33.9, 16, "float32"),
        ("uint16", -1, 0, 12, "int16"),
        ("uint8", 60_000, -32_768, 1, "int32"),
        ("uint16", math.inf, 0, 12, "float64"),
        ("uint16", 1e36, 0.5, 12, "float64"),
        ("uint32", 1, 0, 32, "float64"),
        ("uint32", 1e-6, 0, 32, "float64"),
        ("float32", 1, 0, None, "float64"),
        ("bool", 1, 0, None, "int16"),
    ],
)
def test_the_dtype_of_rescaled_values_loses_as_little_as_can_be(
    stored, slopes, intercepts, bits, expected
):
    assert volume.rescaled_dtype(stored, slopes, intercepts, bits=bits) == expected


@given(
    stored=st.lists(st.integers(0, 4095), min_size=8, max_size=8),
    slope=st.integers(-7, 7),
    intercept=st.integers(-4000, 4000),
)
def test_whole_slopes_are_exact(stored, slope, intercept):
    array = np.array(stored, np.uint16).reshape(2, 2, 2)
    dtype = volume.rescaled_dtype(array.dtype, slope, intercept, bits=12)
    assert dtype.kind == "i"
    out = volume.rescale(array, slope, intercept, dtype)
    assert out.dtype == dtype
    assert out.ravel().tolist() == [value * slope + intercept for value in stored]
    assert array.ravel().tolist() == stored


@given(
    slope=st.floats(1e-4, 100),
    intercept=st.floats(-1000, 1000),
    stored=st.lists(st.integers(0, 65_535), min_size=4, max_size=4),
)
def test_float32_is_right_within_two_parts_in_ten_million(slope, intercept, stored):
    array = np.array(stored, np.uint16).reshape(2, 2)
    out = volume.rescale(array, slope, intercept, np.float32)
    exact = array * np.float64(slope) + intercept
    bound = 2e-7 * (np.abs(array * slope) + abs(intercept)) + 1e-37
    assert (np.abs(out - exact) <= bound).all()


def test_each_slice_has_its_own_slope():
    array = np.ones((4, 28, 64), np.int16)
    stack = arrange(OWN_SLOPES).stacks[0]
    out = volume.rescale(array, stack.slopes, stack.intercepts)
    assert out.dtype == np.float32
    expected = np.array(stack.slopes) + 33.901196
    assert out[:, 0, 0] == pytest.approx(expected, rel=1e-6)
    assert volume.rescale(array[:2], [2, 3], [0, 1])[:, 0, 0].tolist() == [2, 4]


def test_values_beyond_the_bits_stored_are_refused_and_not_wrapped():
    array = np.array([[0, 63_536]], np.uint16)
    dtype = volume.rescaled_dtype(array.dtype, 1, -1024, bits=12)
    with pytest.raises(GeometryError, match="from -1024 to 62512 do not fit int16"):
        volume.rescale(array, 1, -1024, dtype)
    assert volume.rescale(array, 1, -1024).tolist() == [[-1024, 62_512]]
    assert volume.rescale(array[:0], 1, -1024, dtype).size == 0


def test_a_stored_value_of_32_bits_is_rescaled_in_float64():
    array = np.array([[4_294_967_295]], np.uint32)
    assert volume.rescale(array, 1e-6, 0)[0, 0] == 4_294_967_295 * 1e-6


def test_the_grid_of_a_stack_can_be_made_by_hand():
    matrix = ((0, 0, 0.5, 1), (0, 0.5, 0, 2), (5, 0, 0, 3), (0, 0, 0, 1))
    grid = Grid((2, 3, 4), matrix)
    assert grid.to_mm([1, 2, 3]).tolist() == [2.5, 3.0, 8.0]
    assert grid.to_index([2.5, 3.0, 8.0]).tolist() == [1, 2, 3]
