"""What a page tells of a verification: what the record holds, and nothing that it does not."""

import copy

import pytest

from aaexport.deployment.compared import Compared, Lost, compared, refuted

RECORD = {
    "passed": True,
    "onnx_sha256": "ab",
    "max_abs_error": 2.9e-6,
    "date": "2026-01-31T09:30:00Z",
    "guard": None,
    "computations": [{"outputs": [{"case": "images, batch 7"}, {"case": "random, batch 7"}, {"case": "zeros"}]}],
}
GUARD = {
    "kind": "int8",
    "data": "359 held-out images of digits",
    "rows": [
        {"measure": "SQNR", "against": "the float32 file", "value": 36.46, "images": 359},
        {"measure": "SQNR", "against": "PyTorch in float64", "value": "Infinity", "images": 7},
        {"measure": "top-1", "against": "the float32 file", "value": 356 / 359, "images": 359},
        {"measure": "top-1", "against": "PyTorch in float64", "value": 1.0, "images": 1000},
        {"measure": "KL", "against": "the float32 file", "value": None, "images": 359},
    ],
    "accuracy": {"images": 350, "float32": 348, "reduced": 347},
}


def cases(*names):
    return RECORD | {"computations": [{"outputs": [{"case": name} for name in names]}]}


@pytest.mark.parametrize(
    ("record", "told"),
    [
        (RECORD, "On 2026-01-31 this network was compared with PyTorch on held-out images and made-up ones: no "
                 "number was further off than 2.9e-6."),
        (cases("random, batch 7", "random × 1000", "one pixel"), "On 2026-01-31 this network was compared with "
         "PyTorch on made-up images: no number was further off than 2.9e-6."),
        (cases("mine.npz, batch 3", "zeros"), "On 2026-01-31 this network was compared with PyTorch on mine.npz and "
         "made-up ones: no number was further off than 2.9e-6."),
        (RECORD | {"date": None, "computations": [], "max_abs_error": None}, "Before this page was made this network "
         "was compared with PyTorch: its numbers stayed within what is allowed."),
    ],
)  # fmt: skip
def test_a_record_in_float32(record, told):
    assert compared(record, "ab").told == told


def test_a_file_that_did_not_pass_is_said_to_have_failed():
    found = refuted(RECORD | {"passed": False}, "ab")
    assert found.told == "On 2026-01-31 this very file was compared with PyTorch, and did not pass."
    assert refuted(RECORD, "ab") is refuted(RECORD | {"passed": False}, "cd") is None


def test_a_file_in_fewer_bits_is_not_said_to_be_the_same():
    found = compared(RECORD | {"max_abs_error": None, "computations": [], "guard": GUARD})
    assert found == Compared(None, RECORD["date"], (), Lost("int8", GUARD["data"], 36.46, 359, 356, 350, 348, 347))
    assert found.told == (
        "This network computes in int8, so its numbers are not PyTorch’s to the last digit. On 2026-01-31 it was "
        "compared with the one in float32 on 359 held-out images of digits: both take 356 of 359 for the same class, "
        "and its numbers are off by about 1.5 % (signal to noise 36.5 dB). Of 350 with labels it is right about 347, "
        "the one in float32 about 348."
    )


def test_a_file_in_fewer_bits_that_lost_nothing_and_has_no_classes():
    guard = copy.deepcopy(GUARD) | {"rows": [], "accuracy": None}
    told = compared(RECORD | {"guard": guard}).told
    assert told.endswith("on 359 held-out images of digits: no number is another.")


@pytest.mark.parametrize(("change", "digest"), [({"passed": False}, "ab"), ({"passed": 1}, None), ({}, "cd")])
def test_a_record_that_failed_or_is_of_another_file_tells_nothing(change, digest):
    assert compared(RECORD | change, digest) is None


@pytest.mark.parametrize("value", [{}, [], {"passed": True}, RECORD | {"computations": [{}]}])
def test_what_is_no_record_is_an_error(value):
    with pytest.raises((ValueError, LookupError, TypeError)):
        compared(value)
