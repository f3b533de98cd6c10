"""Parts of a cohort: ``split``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import click

from intake_idc import display
from intake_idc.cli.options import LocalPath, cohort, cohort_options, seed_option
from intake_idc.cli.output import say_wrote
from intake_idc.errors import EmptySelection, RequestError

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["split"]


@click.command()
@cohort_options
@click.option(
    "--part",
    "parts",
    multiple=True,
    required=True,
    metavar="NAME=FRACTION",
    help="A part, such as train=0.8; repeatable. The fractions add up to 1.",
)
@click.option(
    "--by",
    multiple=True,
    metavar="COLUMN",
    help="Divide patients alike who have the same values of it; repeatable.",
)
@seed_option
@click.option(
    "--to",
    "folder",
    metavar="DIR",
    required=True,
    type=LocalPath(file_okay=False, path_type=Path),
    help="The folder for the manifests, NAME.s5cmd.",
)
def split(
    parts: Sequence[str], by: Sequence[str], seed: int, folder: Path, **named: Any
) -> None:
    """Divide a cohort by patients: a manifest for each part, and no patient in two."""
    fractions = _fractions(parts)
    found = cohort(**named).split_patients(fractions, by=list(by), seed=seed)
    for name, part in found.items():
        if not part:
            msg = f"part {name!r} has no patient: there are too few; nothing is written"
            raise EmptySelection(msg, part=name)
    folder.mkdir(parents=True, exist_ok=True)
    body = []
    for name, part in found.items():
        counts = part.counts()
        level: Literal["series", "instance"] = (
            "instance" if part.manifest().has_subsets else "series"
        )
        path = part.to_manifest(folder / f"{name}.s5cmd", level=level)
        say_wrote(path, aside=True)
        patients = len(part.unique("PatientID"))
        size = display.bytes_text(counts["bytes"])
        body.append([name, patients, counts["series"], size])
    click.echo(display.rows(["part", "patients", "series", "size"], body))


def _fractions(parts: Sequence[str]) -> dict[str, float]:
    """Read ``NAME=FRACTION``, each name once and fit for a file.

    Raises
    ------
    RequestError
        One is not.
    """
    from intake_idc.plan import safe_name

    found: dict[str, float] = {}
    for text in parts:
        name, equals, fraction = text.partition("=")
        try:
            number = float(fraction) if equals else 0.0
        except ValueError:
            number = 0.0
        # Some file systems take upper and lower case for the same.
        taken = name.casefold() in {other.casefold() for other in found}
        if not number > 0 or taken or safe_name(name) != name:
            msg = f"--part is NAME=FRACTION, each name once, as train=0.8; got {text!r}"
            raise RequestError(msg, part=text)
        found[name] = number
    return found
