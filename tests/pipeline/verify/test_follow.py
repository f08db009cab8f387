"""verify --follow: looks until something is wrong, tells each look in a line, and ends with the code of it."""

import json
import os
import shutil
import signal
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
from inference_servers import over_http, service_of
from repository import ROOT
from schema_pages import described, leaves

pytest.importorskip("grpc")

from aaexport.errors import ArgumentError, ParityError, ServiceError
from aaexport.folder import open_folder
from aaexport.parity.observation import Observation
from aaexport.pipeline.verify.follow import follow
from aaexport.pipeline.verify.options import VerifyOptions
from aaexport.report.machine import observation_json
from aaexport.serving.versions import Served, Version, served_folder, write_served

SCHEMA = ROOT / "docs" / "observation_schema.md"


@pytest.fixture
def service(converted_once):
    return service_of(converted_once / "model.onnx", "tiny", max_batch=8)


def watched(folder, url, looks=3, **options):
    """What was seen, and what ended it."""
    seen = []
    asked = VerifyOptions(url=[url], served_as="tiny", **options)
    try:
        follow(open_folder(folder), None, asked, seen.append, every=0.001, looks=looks)
    except (ParityError, ServiceError) as error:
        return seen, error
    return seen, None


def test_a_right_service_is_asked_other_things_at_each_look(converted_once, service):
    with over_http(service) as url:
        seen, error = watched(converted_once, url)
    assert error is None
    assert [(one.event, one.look) for one in seen] == [("started", 0), ("right", 1), ("right", 2), ("right", 3)]
    looks = seen[1:]
    assert len({one.cases for one in looks}) == 3
    assert all(any(name.startswith("drawn anew") for name in one.cases) for one in looks)
    assert all(one.max_error_ratio is not None and one.images > 1 and not one.failures for one in looks)


@pytest.mark.parametrize("mischief", ["wrong", "empty", "nan"])
def test_a_service_that_turns_wrong_ends_it(converted_once, service, mischief):
    service.mischief = lambda number: mischief if number > 3 else None
    with over_http(service) as url:
        seen, error = watched(converted_once, url, looks=9)
    assert isinstance(error, ParityError)
    assert seen[-1].event == "wrong"
    assert seen[-1].failures
    assert [one.event for one in seen[1:-1]] == ["right"] * (len(seen) - 2)


def test_another_file_under_the_same_name_ends_it(converted_once, service):
    def changed(number):
        service.config = replace(service.config, parameters={"onnx_sha256": "0" * 64})

    service.mischief = changed
    with over_http(service) as url:
        seen, error = watched(converted_once, url, looks=9)
    assert isinstance(error, ParityError)
    assert "must serve this file, of the SHA-256" in str(error)
    assert [one.event for one in seen] == ["started", "right", "wrong"]


def test_a_service_that_does_not_answer_ends_it(converted_once, service, monkeypatch):
    monkeypatch.setattr("aaexport.pipeline.verify.follow.AWAY", 0.1)
    service.mischief = lambda number: "hang" if number > 1 else None
    with over_http(service) as url:
        seen, error = watched(converted_once, url, looks=9, timeout=2.0)
    assert not isinstance(error, ParityError)
    assert [one.event for one in seen] == ["started", "right", "unreachable"]
    assert "url must be answered within 2 s" in seen[-1].failures[0]


def test_a_model_that_is_loaded_anew_meanwhile_ends_nothing(converted_once, service):
    def goes_away(number):
        service.away = 4 if number == 2 else 0

    service.mischief = goes_away
    with over_http(service) as url:
        seen, error = watched(converted_once, url)
    assert error is None
    assert [one.event for one in seen] == ["started", "right", "right", "right"]


@pytest.fixture
def written_anew(converted):
    """A copy of the folder, and what writes it anew: the same network with other weights, in the file too."""

    def write():
        rescaled(converted)
        other = converted.path / "other.onnx"  # a session is kept by its path
        shutil.copyfile(converted.onnx_path, other)
        return service_of(other, "tiny", max_batch=8)

    return converted, write


def rescaled(folder):
    """Other weights for the last layer, in PyTorch's file and, for want of the exporter, by hand in ONNX's."""
    import onnx
    from onnx import numpy_helper
    from safetensors.numpy import load_file, save_file

    weights = load_file(folder.weights_path)
    model = onnx.load(folder.onnx_path)
    name = next(name for name in reversed(weights) if weights[name].ndim == 2)
    old, new = weights[name], weights[name] * np.float32(1.5)
    (tensor,) = (
        tensor
        for tensor in model.graph.initializer
        if sorted(tensor.dims) == sorted(old.shape) and _holds(numpy_helper.to_array(tensor), old)
    )
    held = numpy_helper.to_array(tensor)
    found = np.ascontiguousarray(new if held.shape == old.shape else new.T)
    tensor.CopyFrom(numpy_helper.from_array(found, tensor.name))
    save_file(weights | {name: new}, folder.weights_path)
    onnx.save(model, folder.path / "new.onnx")
    (folder.path / "new.onnx").replace(folder.onnx_path)


def _holds(held, old):
    return np.array_equal(held, old) or np.array_equal(held, old.T)


def takes_over(service, other):
    service.compute, service.config = other.compute, other.config


def test_a_rightful_change_is_told_and_judged_by_the_new_file(written_anew):
    folder, write = written_anew
    service, seen = service_of(folder.onnx_path, "tiny", max_batch=8), []

    def tell(one):
        seen.append(one)
        if one.look == 2:
            takes_over(service, write())

    with over_http(service) as url:
        follow(folder, None, VerifyOptions(url=[url], served_as="tiny"), tell, every=0.001, looks=4)
    assert [one.event for one in seen] == ["started", "right", "right", "changed", "right", "right"]
    assert len({one.onnx_sha256 for one in seen[:3]}) == 1
    assert {one.onnx_sha256 for one in seen[3:]} == {service.config.onnx_sha256}
    assert service.config.onnx_sha256 != seen[0].onnx_sha256


def test_a_service_that_lags_is_told_and_after_its_time_a_failure(written_anew, monkeypatch):
    folder, write = written_anew
    service, seen = service_of(folder.onnx_path, "tiny", max_batch=8), []

    def tell(one):
        seen.append(one)
        if one.look == 1:
            write()
        if one.look == 3:
            monkeypatch.setattr("aaexport.pipeline.verify.follow.BEHIND", -1.0)

    with over_http(service) as url, pytest.raises(ParityError, match="must serve this file, of the SHA-256"):
        follow(folder, None, VerifyOptions(url=[url], served_as="tiny"), tell, every=0.001, looks=9)
    assert [one.event for one in seen] == ["started", "right", "behind", "right", "right", "wrong"]


def test_one_that_answers_by_another_file_than_it_tells_is_wrong(written_anew):
    folder, write = written_anew
    service, seen = service_of(folder.onnx_path, "tiny", max_batch=8), []

    def tell(one):
        seen.append(one)
        if one.look == 1:
            service.config = write().config

    with over_http(service) as url, pytest.raises(ParityError):
        follow(folder, None, VerifyOptions(url=[url], served_as="tiny"), tell, every=0.001, looks=9)
    assert [one.event for one in seen] == ["started", "right", "changed", "wrong"]


def test_going_back_to_a_file_that_was_looked_at_is_a_rightful_change(written_anew):
    folder, write = written_anew
    first, seen = service_of(folder.onnx_path, "tiny", max_batch=8), []
    service = replace(first)

    def tell(one):
        seen.append(one)
        if one.look == 1:
            takes_over(service, write())
        if one.look == 2:
            digests = first.config.onnx_sha256, service.config.onnx_sha256
            versions = [Version(number, digest, "2026-01-31T09:30:00Z") for number, digest in enumerate(digests, 1)]
            served_folder(folder.path).mkdir()
            write_served(folder.path, Served(tuple(versions), 2).gone_back())
            takes_over(service, first)

    with over_http(service) as url:
        follow(folder, None, VerifyOptions(url=[url], served_as="tiny"), tell, every=0.001, looks=3)
    assert [one.event for one in seen] == ["started", "right", "changed", "right", "changed", "right"]
    assert seen[-1].onnx_sha256 == first.config.onnx_sha256


@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM"])
@pytest.mark.slow
def test_an_interrupt_ends_it_with_its_code_and_a_last_line(converted, service, name):
    with over_http(service) as url:
        command = [sys.executable, "-m", "aaexport", "verify", str(converted.path), "--url", url, "--follow"]
        process = subprocess.Popen(
            [*command, "--every", "0.05"],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=os.environ | {"PYTHONPATH": str(ROOT)},
        )
        lines = [json.loads(process.stdout.readline()) for _ in range(3)]
        process.send_signal(getattr(signal, name))
        out, err = process.communicate(timeout=30)
    assert process.returncode == 130
    assert [line["event"] for line in lines] == ["started", "right", "right"]
    assert json.loads(out.splitlines()[-1])["event"] == "stopped"
    assert "Traceback" not in err


def test_the_command_prints_a_line_an_event(cli, converted, service):
    service.mischief = lambda number: "wrong"
    with over_http(service) as url:
        outcome = cli("verify", converted.path, "--url", url, "--follow", "--every", "10ms")
    assert outcome.code == 3
    lines = [json.loads(line) for line in outcome.out.splitlines()]
    assert [line["event"] for line in lines] == ["started", "wrong"]
    assert {line["schema"] for line in lines} == {"aaexport.observation/1"}
    assert outcome.err.splitlines()[-1].startswith("Error: parity failed: served, http://127.0.0.1:")


@pytest.mark.parametrize(
    ("words", "code", "text"),
    [
        (["--follow"], 2, "--follow must go with --url, got 'none'"),
        (["--every", "3"], 2, "--every must go with --follow, got '3'"),
        (["--url", "http://a", "--follow", "--every", "0"], 2, "--every must be above 0 and at most 86,400 seconds"),
        (["--url", "http://a", "--follow", "--json"], 2, "--follow prints JSON lines"),
    ],
)
def test_options_that_break_a_rule(cli, converted, words, code, text):
    outcome = cli("verify", converted.path, *words)
    assert outcome.code == code
    assert text in outcome.err.splitlines()[-1]


def test_follow_needs_a_time_between_looks(converted_once):
    with pytest.raises(ArgumentError, match="every must be above 0"):
        follow(open_folder(converted_once), None, VerifyOptions(url=["http://a"]), print, every=0, looks=1)


SEEN = Observation("right", "2026-01-31T09:30:00Z", "http://a", "m", "", "ab", 1, ("c",), 3, 0.1, 1e-7, 1.5, ("f",))


def test_the_documented_fields_are_those_written():
    assert set(described(SCHEMA)) == {path for path, _ in leaves(observation_json(SEEN), ())}


@pytest.mark.parametrize("seen", [SEEN, Observation("started", "t", "u", "m", "", "ab")])
def test_what_is_written_has_the_documented_type(seen):
    names = {str: "string", int: "number", float: "number", type(None): "null"}
    documented = described(SCHEMA)
    for path, value in leaves(observation_json(seen), ()):
        assert names[type(value)] in documented[path].split(" or "), path
