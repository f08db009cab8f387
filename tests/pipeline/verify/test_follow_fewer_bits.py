"""verify --follow of a file in float16 or int8: the service must give what that file gives, look after look."""

import json
import shutil

import pytest
from fewer_bits import folder_in_fewer_bits, judged, spoilt
from inference_servers import over_http, service_of

pytest.importorskip("grpc")

from aaexport.errors import ArgumentError, ParityError
from aaexport.folder import open_folder, zoo_models
from aaexport.pipeline.verify.follow import follow
from aaexport.pipeline.verify.options import VerifyOptions


@pytest.fixture
def folder(tmp_path):
    """With the zoo's weights: which images there are is the recipe's matter, and the network is built for it."""
    folder = folder_in_fewer_bits(tmp_path / "digits")
    shutil.copyfile(zoo_models()["aa_cnn3_digits"].weights_path, folder.weights_path)
    return folder


def watched(folder, path, kind="int8", *, looks=4, mischief=None, on_look=None):
    """What was seen of a service of that file, and what ended it."""
    service, seen = service_of(path, "digits", max_batch=8), []
    if mischief is not None:
        service.mischief = mischief

    def tell(one):
        seen.append(one)
        if on_look is not None:
            on_look(one, service)

    with over_http(service) as url:
        asked = VerifyOptions(url=[url], served_as="digits", dtype=kind)
        try:
            follow(open_folder(folder.path), None, asked, tell, every=0.001, looks=looks)
        except ParityError as error:
            return seen, error
    return seen, None


@pytest.mark.parametrize("kind", ["int8", "float16"])
def test_the_very_file_is_right_at_every_look(folder, kind):
    seen, error = watched(folder, folder.onnx_of(kind), kind)
    assert error is None
    assert [one.event for one in seen] == ["started", *["right"] * 4]
    assert len({one.cases[0] for one in seen[1:]}) == 4
    assert all(one.cases[1].startswith("drawn anew") and one.max_abs_error is not None for one in seen[1:])


def test_answers_of_float32_are_not_those_of_int8(folder):
    def lies(one, service):
        if one.look == 2:
            service.compute = service_of(folder.onnx_path, "digits").compute

    seen, error = watched(folder, folder.onnx_of("int8"), on_look=lies)
    assert [one.event for one in seen] == ["started", "right", "right", "wrong"]
    assert "logits of images, batch 3: off by" in str(error)


@pytest.mark.parametrize("mischief", ["wrong", "nan", "half", "flat"])
def test_a_service_that_turns_wrong_ends_it(folder, mischief):
    seen, error = watched(folder, folder.onnx_of("int8"), mischief=lambda number: mischief if number > 3 else None)
    assert isinstance(error, ParityError)
    assert [one.event for one in seen] == ["started", "right", "right", "wrong"]


def test_a_file_that_its_guard_has_not_passed_is_judged_first(folder):
    judged(folder, "int8", passed=False)
    seen, error = watched(folder, folder.onnx_of("int8"))
    assert [one.event for one in seen] == ["started", "wrong"]
    assert "SQNR of logits" in str(error) or any("SQNR of logits" in line for line in seen[-1].failures)


def test_a_new_file_that_the_service_takes_over_is_followed(folder):
    def anew(one, service):
        if one.look == 1:
            spoilt(folder, "int8", by=1.02)
            other = folder.path / "other.onnx"  # a session is kept by its path
            shutil.copyfile(folder.onnx_of("int8"), other)
            new = service_of(other, "digits", max_batch=8)
            service.compute, service.config = new.compute, new.config

    seen, error = watched(folder, folder.onnx_of("int8"), looks=2, on_look=anew)
    assert error is None
    assert [one.event for one in seen] == ["started", "right", "changed", "right"]


def test_options_of_the_matrix_are_refused(folder):
    asked = VerifyOptions(url=["http://a"], served_as="digits", dtype="int8", atol=1.0)
    with pytest.raises(ArgumentError, match="atol must be left out for a file in int8"):
        follow(folder, None, asked, print, every=1)


def test_the_command_follows_the_file_that_is_asked_for(cli, folder):
    service = service_of(folder.onnx_of("int8"), "digits", max_batch=8)
    service.mischief = lambda number: "wrong"
    with over_http(service) as url:
        words = ("--dtype", "int8", "--url", url, "--follow", "--every", "10ms")
        outcome = cli("verify", folder.path, *words)
    assert outcome.code == 3
    assert [json.loads(line)["event"] for line in outcome.out.splitlines()] == ["started", "wrong"]
