"""The slices of a series, arranged: stacks, what is set aside, and a verdict."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from intake_idc.errors import GeometryError
from intake_idc.volume.slices import Slice
from intake_idc.volume.stacks import Stack, alike, stack_of


@dataclass(frozen=True)
class Aside:
    """A slice that is in no stack."""

    index: int
    """`Slice.index`."""
    frame: int
    """`Slice.frame`."""
    reason: str
    """Why: ``localizer``, ``no image``, or what its header lacks."""


@dataclass(frozen=True)
class Arrangement:
    """A series in order: the same for its slices in whatever order they came."""

    verdict: str
    """``regular``, ``tilted``, ``missing``, ``duplicate``, ``several stacks``,
    ``localizers set aside``, ``mixed sizes`` or ``not a volume``."""
    reasons: tuple[str, ...]
    """What is wrong, or worth knowing, each in a line."""
    stacks: tuple[Stack, ...]
    """The largest first."""
    aside: tuple[Aside, ...]
    """What is in none of them."""
    regular: bool
    """Whether every stack is a volume, and no image is left out but localizers."""


def arrange(slices: Iterable[Slice], *, strict: bool = True) -> Arrangement:
    """Sort the slices of a series into stacks, and say what they make.

    Slices of one size, kind of pixels, frame of reference, orientation (1e-4) and
    PixelSpacing (1e-4 of it) make a stack. In it they are ordered by the projection
    of their ImagePositionPatient on the normal (PS3.3 C.7.6.2), never by
    InstanceNumber. Where several lie at each place, what tells them apart becomes a
    leading axis: TemporalPositionIdentifier, EchoTime, EchoNumbers, DiffusionBValue,
    ImageType, several of these, TriggerTime, AcquisitionNumber, AcquisitionTime,
    ContentTime, InstanceNumber. Slices called LOCALIZER are set aside, unless there is
    nothing else.

    Parameters
    ----------
    slices : iterable of Slice
        With distinct ``(index, frame)``, in any order.
    strict : bool
        Refuse what is no volume. Without it, such stacks come with `Stack.verdict`,
        each slice with its own position, and no grid.

    Raises
    ------
    GeometryError
        Under `strict`, a stack is no regular volume, or images say no place. In any
        case, two slices have the same ``(index, frame)``.
    """
    # By identity first: nothing below depends on the order in which they came.
    every = sorted(slices, key=lambda one: (one.uid, one.index, one.frame))
    names = Counter((one.index, one.frame) for one in every)
    twice = [name for name, many in names.items() if many > 1]
    if twice:
        reason = f"two slices are called index {twice[0][0]}, frame {twice[0][1]}"
        msg = f"{reason}; number the instances of a series"
        raise GeometryError(msg, reasons=(reason,))
    placed, aside, reasons = _sort_out(every)
    stacks = sorted(map(stack_of, alike(placed)), key=_rank)
    regular = bool(stacks) and all(stack.regular for stack in stacks)
    if any(one.reason not in (LOCALIZER, NO_IMAGE) for one in aside):
        regular = False
    arrangement = Arrangement(
        verdict=_verdict(stacks, aside),
        reasons=(*reasons, *_differences(stacks), *_told(stacks)),
        stacks=tuple(stacks),
        aside=tuple(aside),
        regular=regular,
    )
    if strict and not regular:
        why = "; ".join(arrangement.reasons)
        msg = f"{arrangement.verdict}: {why}"
        if stacks:
            msg += ". With strict=False the slices come with their positions"
        raise GeometryError(
            msg, verdict=arrangement.verdict, reasons=arrangement.reasons
        )
    return arrangement


LOCALIZER = "localizer"
NO_IMAGE = "no image"


def _sort_out(
    slices: Sequence[Slice],
) -> tuple[list[Slice], list[Aside], list[str]]:
    """Part what has a place from what has none, and from localizers."""
    lacks = {(one.index, one.frame): _lack(one) for one in slices}
    placed = [one for one in slices if not lacks[one.index, one.frame]]
    real = [one for one in placed if "LOCALIZER" not in one.image_type]
    if real and len(real) < len(placed):
        for one in placed:
            if "LOCALIZER" in one.image_type:
                lacks[one.index, one.frame] = LOCALIZER
        placed = real
    aside = [Aside(*which, reason) for which, reason in lacks.items() if reason]
    counts = Counter(one.reason for one in aside)
    reasons = [f"{many} set aside: {reason}" for reason, many in counts.items()]
    if not slices:
        reasons.append("there are no slices")
    return placed, aside, reasons


def _lack(one: Slice) -> str:
    """Say what keeps a slice from having a place; empty where nothing does."""
    if one.rows is None or one.columns is None:
        return NO_IMAGE
    if one.frames > 1:
        return "several frames, which are not made into slices"
    needed = {
        "ImagePositionPatient": one.position,
        "ImageOrientationPatient": one.orientation,
        "PixelSpacing": one.pixel_spacing,
    }
    missing = [keyword for keyword, value in needed.items() if value is None]
    return f"no {', '.join(missing)}" if missing else ""


def _rank(stack: Stack) -> tuple[object, ...]:
    """The largest first; the rest only makes the order always the same."""
    return (
        -len(stack),
        *(-side for side in stack.shape[-2:]),
        stack.orientation,
        stack.corners,
        stack.order,
        stack.frames,
    )


def _verdict(stacks: Sequence[Stack], aside: Sequence[Aside]) -> str:
    if not stacks:
        return "not a volume"
    if len(stacks) > 1:
        sizes = {stack.shape[-2:] for stack in stacks}
        return "mixed sizes" if len(sizes) > 1 else "several stacks"
    if not stacks[0].regular:
        return stacks[0].verdict
    left_out = {one.reason for one in aside}
    if left_out - {LOCALIZER, NO_IMAGE}:
        return "not a volume"
    return "localizers set aside" if LOCALIZER in left_out else stacks[0].verdict


def _differences(stacks: Sequence[Stack]) -> list[str]:
    """Say in what several stacks differ."""
    if len(stacks) < 2:  # noqa: PLR2004
        return []
    seen: dict[str, set[str]] = {
        "Rows x Columns": {f"{s.shape[-2]}x{s.shape[-1]}" for s in stacks},
        "PixelSpacing": {_joined(s.pixel_spacing, 4) for s in stacks},
        "orientation": {_joined(s.orientation, 3) for s in stacks},
        "kind of pixels": {
            f"{s.samples} of {s.bits_allocated} bits{', signed' * s.signed}"
            for s in stacks
        },
    }
    several = {name: sorted(values) for name, values in seen.items() if len(values) > 1}
    differ = [f"{name} ({' and '.join(v[:4])})" for name, v in several.items()]
    by = ", ".join(differ) or "frame of reference, StackID, or digits of orientation"
    return [f"{len(stacks)} stacks, which differ in {by}"]


def _joined(numbers: Sequence[float], digits: int) -> str:
    return "\\".join(f"{number + 0.0:.{digits}g}" for number in numbers)


def _told(stacks: Sequence[Stack]) -> list[str]:
    """Reasons of the stacks, each with its number where there are several."""
    told = [(number, reason) for number, s in enumerate(stacks) for reason in s.reasons]
    if len(stacks) == 1:
        return [reason for _, reason in told]
    return [f"stack {number}: {reason}" for number, reason in told[:20]]
