"""Carry out a plan: fetch beside the target, check, and rename as the last act.

A file appears under its final name only when it is complete. Until then its bytes
lie beside it, in ``.idc-<machine>-<process>-<began>-<number>.part``, which is removed
when something fails. Carrying out a plan again fetches only what is not there.
"""

from __future__ import annotations

from intake_idc.transfer.hashing import CHECKSUMS, Checksum
from intake_idc.transfer.mapping import check_mapping, write_mapping
from intake_idc.transfer.notices import NOTICE, put_notice
from intake_idc.transfer.places import LocalPlace
from intake_idc.transfer.rates import known_rate, remember
from intake_idc.transfer.report import Outcome, Report
from intake_idc.transfer.running import Limits, run
from intake_idc.transfer.verifying import Verification, verify

__all__ = [
    "CHECKSUMS",
    "NOTICE",
    "Checksum",
    "Limits",
    "LocalPlace",
    "Outcome",
    "Report",
    "Verification",
    "check_mapping",
    "known_rate",
    "put_notice",
    "remember",
    "run",
    "verify",
    "write_mapping",
]
