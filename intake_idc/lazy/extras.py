"""Libraries that only some of the rooms need, asked for when they are entered."""

from __future__ import annotations

import importlib
from typing import Any

from intake_idc.errors import MissingError

__all__ = ["need"]


def need(module: str, extra: str) -> Any:
    """Import a library that comes with an extra.

    Parameters
    ----------
    module : str
        What is imported, such as ``"xarray"``.
    extra : str
        The extra of this package that brings it.

    Raises
    ------
    MissingError
        It is not installed; the message gives the command.
    """
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        if (
            error.name is None
            or error.name.split(".")[0] != module.split(".", maxsplit=1)[0]
        ):
            raise
        msg = f"this needs {module}: pip install 'intake-idc[{extra}]'"
        raise MissingError(msg, module=module, extra=extra) from error
