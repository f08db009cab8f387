"""A live service of a file in float16 or int8 must answer as the very file does, not as well as its guard allows."""

from types import SimpleNamespace

import pytest
from fewer_bits import IMAGES, folder_in_fewer_bits, spoilt

from aaexport.errors import ServiceError
from aaexport.pipeline.verify.options import VerifyOptions
from aaexport.pipeline.verify.served import why_otherwise
from aaexport.runners.ort import OrtRunner


@pytest.fixture
def folder(tmp_path):
    return folder_in_fewer_bits(tmp_path / "digits")


def service(path, *, fixed=None, most=8, runner=OrtRunner):
    """As a live one that runs this file."""
    facts = SimpleNamespace(fixed_batch=fixed, max_batch=most)
    return SimpleNamespace(row_name="served, http://here", facts=facts, open=lambda: runner(path))


def asked(folder, live, kind="int8"):
    return why_otherwise(live, folder.onnx_of(kind), kind, IMAGES, VerifyOptions())


@pytest.mark.parametrize("kind", ["int8", "float16"])
def test_the_very_file_answers_alike_and_it_is_told_how_many_were_asked(folder, kind):
    wrong, told = asked(folder, service(folder.onnx_of(kind)), kind)
    assert wrong is None
    name = folder.onnx_of(kind).name
    assert told == f"served, http://here: answers as {name} does here, 16 images in batches of 1 and 8"


def test_another_file_of_the_folders_is_found(folder):
    wrong, _ = asked(folder, service(folder.onnx_path))
    assert wrong.startswith("served, http://here must answer as model.int8.onnx does here, got logits off by")


def test_a_file_that_is_a_little_another_is_found(folder, tmp_path):
    stale = folder_in_fewer_bits(tmp_path / "stale")
    spoilt(stale, "int8", by=1.02)
    assert "logits off by" in asked(folder, service(stale.onnx_of("int8")))[0]


def test_answers_that_got_mixed_up_are_found_where_queries_share_a_run(folder):
    class Mixing(OrtRunner):
        def infer(self, feeds):
            outputs = super().infer(feeds)
            return {name: array[::-1] if len(array) > 1 else array for name, array in outputs.items()}

    wrong, _ = asked(folder, service(folder.onnx_of("int8"), runner=Mixing))
    assert wrong.endswith("for 8 images at once")


def test_a_service_that_does_not_answer_is_a_fault(folder):
    def gone(path):
        raise ServiceError("connection refused")

    assert asked(folder, service(None, runner=gone))[0] == "served, http://here: connection refused"


def test_a_fixed_batch_is_kept_to(folder):
    wrong, told = asked(folder, service(folder.onnx_of("int8"), fixed=4))
    assert wrong is None
    assert told.endswith("16 images in batches of 4")
