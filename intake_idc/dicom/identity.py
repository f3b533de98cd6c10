"""Which object of which series a file is, by the two elements that say it."""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING

from intake_idc.dicom.elements import Marked, walk
from intake_idc.dicom.reading import entered
from intake_idc.dicom.walking import BIG_ENDIAN

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["read_identity"]

_NAMES = {0x00080018: "SOPInstanceUID", 0x0020000E: "SeriesInstanceUID"}
_LAST = max(_NAMES)


def read_identity(
    read: Callable[[int, int], bytes], size: int, url: str = ""
) -> dict[str, str]:
    """Read the SOPInstanceUID and the SeriesInstanceUID of an object.

    Parameters and errors are those of `read_header`; nothing but the two is decoded.

    Returns
    -------
    dict of str
        Both by their names; one that is not there is left out.
    """
    window, syntax, start, _ = entered(Marked(read, size, url))
    window.mark = None
    parts, _ = walk(window, start, syntax, lambda tag: tag > _LAST, _NAMES)
    order = ">" if syntax == BIG_ENDIAN else "<"
    found = {}
    for part in parts:
        group, element = struct.unpack_from(f"{order}HH", part)
        name = _NAMES.get(group << 16 | element)
        if name is not None:
            # A UI has 8 bytes before its value, be its VR written or not (PS3.5 7.1).
            found[name] = part[8:].decode("ascii", "replace").rstrip("\0 ")
    return found
