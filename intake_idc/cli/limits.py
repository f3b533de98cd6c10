"""What the process of the command may have, which a library leaves to its user."""

from __future__ import annotations

from contextlib import suppress

__all__ = ["open_more_files"]

FILES = 4096
"""Files that may be open: a copy has some for each request, and hundreds of these."""


def open_more_files() -> None:
    """Have more files open at a time than most systems begin with, if they let us."""
    try:
        import resource
    except ImportError:
        # Windows has no such limit.
        return
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = FILES if hard == resource.RLIM_INFINITY else min(FILES, hard)
    if soft != resource.RLIM_INFINITY and soft < most:
        with suppress(OSError, ValueError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))
