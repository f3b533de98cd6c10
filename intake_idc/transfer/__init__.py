"""Carry out a plan: fetch beside the target, check, and rename as the last act.

A file appears under its final name only when it is complete. Until then its bytes
lie beside it, in ``.idc-<machine>-<process>-<began>-<number>.part``, which is removed
when something fails. Carrying out a plan again fetches only what is not there.
"""

from __future__ import annotations

from intake_idc.transfer.checking import Level, Truth
from intake_idc.transfer.counting import verify_series
from intake_idc.transfer.extras import obsolete, remove_obsolete
from intake_idc.transfer.hashing import CHECKSUMS, Checksum
from intake_idc.transfer.mapping import check_mapping, write_mapping
from intake_idc.transfer.notices import NOTICE, put_notice
from intake_idc.transfer.places import LocalPlace
from intake_idc.transfer.rates import known_rate, remember
from intake_idc.transfer.recalling import read_records
from intake_idc.transfer.recorded import Origin, Records, Run
from intake_idc.transfer.remote import ServerSide, Target, target_of
from intake_idc.transfer.repairing import repair, repair_plan
from intake_idc.transfer.report import Outcome, Report
from intake_idc.transfer.running import Limits, run
from intake_idc.transfer.verification import Finding, Verification
from intake_idc.transfer.verifying import verify, verify_plan

__all__ = [
    "CHECKSUMS",
    "NOTICE",
    "Checksum",
    "Finding",
    "Level",
    "Limits",
    "LocalPlace",
    "Origin",
    "Outcome",
    "Records",
    "Report",
    "Run",
    "ServerSide",
    "Target",
    "Truth",
    "Verification",
    "check_mapping",
    "known_rate",
    "obsolete",
    "put_notice",
    "read_records",
    "remember",
    "remove_obsolete",
    "repair",
    "repair_plan",
    "run",
    "target_of",
    "verify",
    "verify_plan",
    "verify_series",
    "write_mapping",
]
