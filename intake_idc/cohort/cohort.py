"""The class `Cohort`."""

from __future__ import annotations

from dataclasses import dataclass

from intake_idc.cohort.verbs.annotating import Annotating
from intake_idc.cohort.verbs.applying import Applying
from intake_idc.cohort.verbs.asking import Asking
from intake_idc.cohort.verbs.combining import Combining
from intake_idc.cohort.verbs.copying import Copying
from intake_idc.cohort.verbs.derived import Derived
from intake_idc.cohort.verbs.exporting import Exporting
from intake_idc.cohort.verbs.heading import Heading
from intake_idc.cohort.verbs.imaging import Imaging
from intake_idc.cohort.verbs.reading import Reading
from intake_idc.cohort.verbs.showing import Showing
from intake_idc.cohort.verbs.slides import Slides
from intake_idc.cohort.verbs.writing import Writing

__all__ = ["Cohort"]


@dataclass(frozen=True, repr=False)
class Cohort(
    Combining,
    Annotating,
    Reading,
    Applying,
    Heading,
    Imaging,
    Derived,
    Slides,
    Copying,
    Exporting,
    Writing,
    Showing,
    Asking,
):
    """Series of one release that fulfil some conditions.

    Use `open_idc` or `open_manifest`, and narrow with `search` and `query`. A
    cohort never changes: each method gives a new one. It may be used from many
    threads.
    """
