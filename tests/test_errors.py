"""Errors: the tree, their builtin kinds, pickling, exit codes."""

from __future__ import annotations

import copy
import inspect
import pickle

import pytest

from intake_idc import errors
from intake_idc.errors import IDCError, nearest

ALL = [
    cls
    for _, cls in inspect.getmembers(errors, inspect.isclass)
    if issubclass(cls, IDCError)
]


@pytest.mark.parametrize("cls", ALL, ids=lambda cls: cls.__name__)
def test_every_error_survives_pickle_with_its_details(cls):
    error = cls("something is wrong", url="s3://b/k", offset=3)
    for again in (pickle.loads(pickle.dumps(error)), copy.copy(error)):
        assert type(again) is cls
        assert str(again) == "something is wrong"
        assert again.details == {"url": "s3://b/k", "offset": 3}


@pytest.mark.parametrize(
    ("cls", "builtin"),
    [
        (errors.RequestError, ValueError),
        (errors.MissingError, LookupError),
        (errors.StorageError, OSError),
        (errors.ObjectNotFound, FileNotFoundError),
        (errors.AccessDenied, PermissionError),
        (errors.DicomReadError, ValueError),
        (errors.NoSpace, OSError),
    ],
    ids=lambda cls: cls.__name__,
)
def test_errors_are_also_the_builtin_that_a_caller_expects(cls, builtin):
    assert issubclass(cls, builtin)


def test_exit_codes_say_what_to_do():
    codes = {cls.__name__: cls.exit_code for cls in ALL}
    assert codes["RequestError"] == 2
    assert codes["ManifestError"] == codes["PlanError"] == 3
    assert codes["TransferError"] == codes["StorageError"] == 4
    assert codes["IntegrityError"] == 5
    assert codes["NoSpace"] == 6


@pytest.mark.parametrize(
    ("wanted", "known", "expected"),
    [
        ("nslt", ["nlst", "rider"], "; did you mean 'nlst'?"),
        ("modality", ["Modality", "PatientID"], "; did you mean 'Modality'?"),
        ("xyzzy", ["Modality"], ""),
        ("a", [None, 3], ""),
    ],
)
def test_nearest_names_are_found_whatever_the_case(wanted, known, expected):
    assert nearest(wanted, known) == expected
