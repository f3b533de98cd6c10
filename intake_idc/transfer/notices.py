"""The notice beside a copy: licences, and whom to cite."""

from __future__ import annotations

import os
import re
from typing import TYPE_CHECKING

from intake_idc.citations import MANIFEST_LINE
from intake_idc.errors import PlanError
from intake_idc.files import part_name

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["NOTICE", "NOTICES", "put_notice"]

NOTICE = "NOTICE.txt"
"""Name of the notice beside the first cohort that was copied to a folder."""

NOTICES = re.compile(r"NOTICE(-[0-9a-f]{12})?\.txt")
"""Names that notices may have."""


def put_notice(target: Path, text: str, manifest: str) -> Path:
    """Put a notice beside a copy, whole or not at all.

    A notice speaks of one cohort, which its manifest's digest names, so notices are
    not merged. The first cohort that is copied to a folder has ``NOTICE.txt``. Where
    a file of that name speaks of another cohort, or is not ours, it stays, and the
    notice is ``NOTICE-<first 12 digits of the digest>.txt``. A notice of the same
    cohort is replaced, or left alone where it says the same.

    Parameters
    ----------
    target : Path
        The folder of the copy.
    text : str
        What `Citations.notice` gives, with the digest in it.
    manifest : str
        The digest.

    Raises
    ------
    PlanError
        What has the name is not a plain file.
    """
    data = text.encode()
    plain, named = target / NOTICE, target / f"NOTICE-{manifest[:12]}.txt"
    part = target / part_name()
    try:
        part.write_bytes(data)
        if not _speaks_of(named, manifest):
            if _speaks_of(plain, manifest) or _put_new(part, plain):
                named = plain
            elif _speaks_of(plain, manifest):
                # Another copy of the same cohort was faster.
                named = plain
        if os.path.lexists(named):
            if named.is_symlink() or not named.is_file():
                msg = f"{named} is not a plain file; move it away for the notice"
                raise PlanError(msg, path=str(named))
            if named.read_bytes() == data:
                return named
        part.replace(named)
    finally:
        part.unlink(missing_ok=True)
    return named


def _speaks_of(path: Path, manifest: str) -> bool:
    """Whether a file is the notice of this cohort."""
    if path.is_symlink() or not path.is_file():
        return False
    lines = path.read_bytes().splitlines()
    return f"{MANIFEST_LINE}{manifest}".encode() in lines


def _put_new(part: Path, path: Path) -> bool:
    """Give a file a second name, unless the name is taken."""
    if os.path.lexists(path):
        return False
    try:
        os.link(part, path)
    except FileExistsError:
        return False
    except OSError:
        # A file system without hard links.
        part.replace(path)
    return True
