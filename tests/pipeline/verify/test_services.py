"""verify --url: what a live service answers is a row of the matrix, and what is wrong with one is said."""

import json
from dataclasses import replace

import pytest
from inference_servers import over_both, over_http, service_of, silent, unused

pytest.importorskip("grpc")

import aaexport
from aaexport.errors import ArgumentError, ServiceError
from aaexport.serving.protocol import ServerMetadata, TensorMetadata

BOUND = 5


@pytest.fixture
def service(converted_once):
    return service_of(converted_once / "model.onnx", "tiny", max_batch=BOUND, version="3")


def judged(folder, url, **options):
    given = {"runtimes": ["onnxruntime"], "served_as": "tiny"} | options
    return aaexport.verify(folder, url=[url] if isinstance(url, str) else url, **given)


def row_of(report):
    return report.computations[-1]


def test_a_service_is_judged_as_the_file_is(converted_once, service):
    with over_both(service) as urls:
        report = judged(converted_once, list(urls.values()))
    assert report.passed, report.failures
    served = report.computations[-2:]
    assert [row.name for row in served] == [f"served, {url}" for url in urls.values()]
    assert {row.stage for row in served} == {"service"}
    for row in served:
        cases = {output.case for output in row.outputs}
        assert {"images, batch 7", "random, batch 1", "NaN in a pixel", "batches 1–5"} <= cases
    assert report.accuracy.runner == report.accuracy.torch
    assert max(service.sizes) == BOUND  # what is more is asked in parts


@pytest.mark.parametrize(
    ("mischief", "text"),
    [
        ("wrong", "logits of images, batch 7: largest error must be at most"),
        ("empty", "output 'logits' must be of the query's batch"),
        ("nan", "logits of images, batch 7"),
        ("no nan", "logits of NaN in a pixel"),
        ("invalid", "refuses with 400: unexpected shape"),
    ],
)
def test_a_wrong_answer_fails_and_is_told(converted_once, service, mischief, text):
    service.mischief = lambda number: mischief
    with over_http(service) as url:
        report = judged(converted_once, url)
    assert not report.passed
    assert report.broken_stage == "service"
    assert report.computations[0].passed
    assert any(text in failure for failure in report.failures), report.failures
    assert report.divergence is None


def test_an_answer_that_is_wrong_in_one_batch_size_alone_is_found(converted_once, service):
    compute = service.compute
    service.compute = lambda inputs: (
        {"logits": compute(inputs)["logits"][::-1]} if len(inputs["input"]) == 4 else compute(inputs)
    )
    with over_http(service) as url:
        report = judged(converted_once, url)
    wrong = [output.case for output in row_of(report).outputs if not output.passed]
    assert wrong == ["batches 1–5", "images, batch 64"]  # of the 64 the last four are asked alone


def test_a_stale_version_is_told_by_its_digest(converted_once, service):
    service.config = replace(service.config, parameters={"onnx_sha256": "0" * 64})
    with over_http(service) as url:
        report = judged(converted_once, url)
    assert row_of(report).passed
    assert not report.passed
    (failure,) = report.structure
    assert f"served, {url} must serve this file, of the SHA-256 " in failure
    assert "got 000000000000… in version 3; the service is stale, or the file is: load the new one" in failure


def test_what_a_service_does_not_tell_is_a_note(converted_once, service):
    service.config = None
    with over_http(service) as url:
        report = judged(converted_once, url)
    assert report.passed
    assert f"served, {url}: names no largest batch: sizes to 8 were tried" in report.notes
    assert any("does not tell which file it serves" in note for note in report.notes)


def test_a_service_that_takes_json_alone_is_asked_no_nan(converted_once, service):
    service.server = ServerMetadata("plain", "1")
    with over_http(service) as url:
        report = judged(converted_once, url)
    assert report.passed
    assert not any("NaN" in output.case for output in row_of(report).outputs)
    assert any("takes JSON only" in note for note in report.notes)


def test_a_fixed_batch_is_asked_as_it_is(converted_once, service):
    fixed = TensorMetadata("input", "FP32", (2, 1, 8, 8)), TensorMetadata("logits", "FP32", (2, 10))
    service.model = replace(service.model, inputs=fixed[:1], outputs=fixed[1:])
    with over_http(service) as url:
        report = judged(converted_once, url)
    assert report.passed, report.failures
    assert set(service.sizes) == {2}
    assert f"served, {url}: takes 2 images a query, and no other number" in report.notes


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        (
            {"inputs": (TensorMetadata("image", "FP32", (-1, 1, 8, 8)),)},
            "the service's inputs must be input, got 'image'; it is another model",
        ),
        (
            {"outputs": (TensorMetadata("logits", "FP32", (-1, 100)),)},
            "the service's output logits must be float [any, 10] as in the file, got FP32 [any, 100]",
        ),
        (
            {"inputs": (TensorMetadata("input", "FP16", (-1, 1, 8, 8)),)},
            "the service's input input must be float [any, 1, 8, 8] as in the file, got FP16",
        ),
    ],
)
def test_another_model_is_not_even_asked(converted_once, service, changes, text):
    service.model = replace(service.model, **changes)
    with over_http(service) as url:
        report = judged(converted_once, url)
    assert text in row_of(report).failure
    assert report.broken_stage == "service"
    assert not service.queries


@pytest.mark.parametrize("scheme", ["http", "grpc"])
def test_a_url_that_does_not_answer_ends_with_one_line(cli, converted, scheme):
    url = f"{scheme}://{unused()}"
    outcome = cli("verify", converted.path, "--url", url)
    assert outcome.code == 6
    assert outcome.err.splitlines()[-1].startswith(
        f"Error: --url must be answered, got connection refused at {url}; "
    )
    assert not outcome.out


@pytest.mark.parametrize("command", ["verify", "serve-bench"])
def test_the_url_is_asked_before_a_zoo_model_is_copied_and_converted(cli, tmp_path, command):
    outcome = cli(command, "aa_cnn3_digits", "--url", f"http://{unused()}", "--timeout", "900ms")
    assert outcome.code == 6
    assert not list(tmp_path.iterdir())
    (line,) = outcome.err.splitlines()
    assert line.startswith("Error: --url must be answered, got connection refused at http://")


def test_a_url_that_hangs_ends_with_one_line(cli, converted):
    with silent() as place:
        outcome = cli("verify", converted.path, "--url", f"http://{place}", "--timeout", "100ms")
    assert outcome.code == 6
    assert "--url must be answered within 0.1 s, got no whole answer at" in outcome.err


def test_a_service_that_stops_answering_is_no_wrong_one(converted_once, service):
    service.mischief = lambda number: "hang" if number > 3 else None
    with over_http(service) as url, pytest.raises(ServiceError, match=r"url must be answered within 0\.2 s"):
        judged(converted_once, url, timeout=0.2)


def test_a_model_that_the_service_does_not_have_is_told_with_those_it_has(cli, converted, service):
    service.model = replace(service.model, name="other")
    with over_http(service) as url:
        outcome = cli("verify", converted.path, "--url", url)
    assert outcome.code == 6
    assert "must serve tiny, got another service; it serves other: name one with --served-as" in outcome.err


def test_a_service_that_is_not_ready_is_told(converted_once, service):
    service.is_ready = False
    with over_http(service) as url, pytest.raises(ServiceError, match="must be ready, got a model that is being"):
        judged(converted_once, url)


def test_the_command_prints_the_row_and_keeps_the_folders_own_report(cli, converted, service):
    before = converted.parity_path.read_bytes()
    service.mischief = lambda number: "wrong"
    with over_http(service) as url:
        outcome = cli("verify", converted.path, "--url", url, "--runtimes", "onnxruntime", "--json")
    assert outcome.code == 3
    found = json.loads(outcome.out)
    assert [row["stage"] for row in found["computations"]] == ["decomposition", "optimizer", "service"]
    assert found["broken_stage"] == "service"
    assert converted.parity_path.read_bytes() == before


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"served_as": "a"}, "served_as must go with url, got 'a'"),
        ({"timeout": 1.0}, "timeout must go with url, got 1.0"),
        ({"url": ["localhost"]}, "url must be http://, "),
        ({"url": ["http://a"], "timeout": 0.0}, "timeout must be a number of seconds above 0, got 0.0"),
        ({"url": ["http://a"], "served_as": ":3"}, "served_as must be NAME or NAME:VERSION, got ':3'"),
    ],
)
def test_options_that_break_a_rule(converted_once, options, text):
    with pytest.raises(ArgumentError) as caught:
        aaexport.verify(converted_once, **options)
    assert text in str(caught.value)
