"""Computing with a bar: of Dask's own, on this machine or on a cluster."""

from __future__ import annotations

import sys
from typing import Any

from dask.base import compute

__all__ = ["computed"]


def computed(
    *collections: Any, progress: bool = False, **options: Any
) -> tuple[Any, ...]:
    """Compute collections together, and show how far it is.

    Parameters
    ----------
    *collections
        Of Dask.
    progress : bool
        Write a bar to the terminal: done and due partitions.
    **options
        For `dask.compute`.
    """
    if not progress:
        return tuple(compute(*collections, **options))
    client = None if "scheduler" in options else _client()
    if client is None:
        from dask.diagnostics.progress import ProgressBar

        with ProgressBar():
            return tuple(compute(*collections, **options))
    from distributed import progress as shown

    futures = client.compute(collections, **options)
    shown(futures, notebook=False)
    return tuple(client.gather(futures))


def _client() -> Any:
    """Give the client of a cluster that computes here, if there is one."""
    distributed = sys.modules.get("distributed")
    if distributed is None:
        return None
    try:
        return distributed.default_client()
    except ValueError:
        return None
