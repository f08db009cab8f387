"""`deploy` and `check_deployment`, on a model that was made by hand."""

import json

import pytest
from deployable import digits_folder, edit, write_golden
from fewer_bits import folder_in_fewer_bits
from outcomes import error_of

import aaexport
from aaexport.errors import ArgumentError, DataError, DeploymentError, FolderError
from aaexport.graph.files import file_digest
from aaexport.pipeline.deploy.evidence import as_measured, read_peak
from aaexport.report.bench.as_json import BENCH_SCHEMA
from aaexport.report.machine import DEPLOY_SCHEMA

PLAIN_TARGETS = ("triton", "kserve", "ray")  # a container's versions are of what is installed


@pytest.fixture
def folder(tmp_path):
    return digits_folder(tmp_path / "digits")


def peak(folder, path, *, rate=100.0, max_batch=1, digest=None, threads=1, valid=True, **load):
    given = {"latency_bound": 20.0, "samples_per_query": 1, "arrivals": "poisson", "workers": 2, "max_delay": 3.0}
    value = {
        "schema": BENCH_SCHEMA,
        "valid": valid,
        "onnx_sha256": digest or file_digest(folder.onnx_path, ()),
        "provider": "CPUExecutionProvider",
        "threads": threads,
        "load": given | {"max_batch": max_batch} | load,
        "peak": {"rate": rate, "latency_bound": 20.0, "trials": []},
    }
    path.write_text(json.dumps(value))
    return path


@pytest.mark.parametrize("to", PLAIN_TARGETS)
def test_a_deployment_is_written_checked_and_found_whole_again(folder, tmp_path, to):
    said = []
    result = aaexport.deploy(folder, to, tmp_path / "out", say=said.append)
    assert result.passed
    assert result.target == to
    assert said[-1] == f"writing {tmp_path / 'out'}"
    again = aaexport.check_deployment(tmp_path / "out")
    assert again.passed
    assert again.files == result.files
    assert [check.name for check in result.checks] == ["answers", *(check.name for check in again.checks)]
    assert len((tmp_path / "out" / "README.md").read_text().split("\n\n")) == 5
    assert result.to_dict()["schema"] == DEPLOY_SCHEMA
    assert "PASS" in str(result)


def test_wrong_answers_write_nothing(folder, tmp_path):
    write_golden(folder, wrong_by=0.01)
    with pytest.raises(DeploymentError, match=r"out was not written: answers: logits off by 1\.0e-02") as caught:
        aaexport.deploy(folder, "triton", tmp_path / "out")
    assert not caught.value.result.passed
    assert sorted(path.name for path in tmp_path.iterdir()) == ["digits"]


def test_a_folder_without_golden_vectors_says_so(folder, tmp_path):
    folder.golden_path.unlink()
    result = aaexport.deploy(folder, "triton", tmp_path / "out")
    assert "answers" not in {check.name for check in result.checks}
    assert result.notes[0].startswith("nobody asked whether it answers right")
    assert "model_warmup" not in (tmp_path / "out/model_repository/digits/config.pbtxt").read_text()


@pytest.mark.parametrize("to", ["ray", "container"])
def test_what_proves_itself_needs_golden_vectors(folder, tmp_path, to):
    folder.golden_path.unlink()
    with pytest.raises(FolderError, match="model must have golden vectors for "):
        aaexport.deploy(folder, to, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_golden_vectors_are_made_from_weights(converted, tmp_path):
    converted.golden_path.unlink(missing_ok=True)
    result = aaexport.deploy(converted, "ray", tmp_path / "out")
    assert result.checks[0].found == "4 golden images right in onnxruntime"
    assert result.notes[0] == "golden vectors were made from the folder's weights, as it has none that fit"
    assert not converted.golden_path.exists()


def test_a_file_that_changes_meanwhile_is_not_deployed(folder, tmp_path):
    def change(line):
        if line.startswith("writing"):
            with folder.onnx_path.open("ab") as file:
                file.write(b"\x1a\x00")  # a producer's name: another file that means the same

    with pytest.raises(FolderError, match="must stay as it is while it is deployed"):
        aaexport.deploy(folder, "triton", tmp_path / "out", say=change)
    assert not (tmp_path / "out").exists()


def test_an_unconverted_folder_is_said(folder, tmp_path):
    folder.onnx_path.unlink()
    with pytest.raises(FolderError, match="aaexport convert"):
        aaexport.deploy(folder, "triton", tmp_path / "out")


def test_force_says_what_it_replaces(folder, tmp_path):
    out = tmp_path / "out"
    aaexport.deploy(folder, "triton", out)
    edit(out / "README.md", "Triton", "Tritonn")
    with pytest.raises(FolderError, match=r"another README\.md"):
        aaexport.deploy(folder, "triton", out)
    said = []
    result = aaexport.deploy(folder, "triton", out, force=True, say=said.append)
    assert result.replaced == ("README.md",)
    assert f"replacing {out / 'README.md'}, which is not as it was written" in said
    aaexport.deploy(folder, "kserve", out)  # unchanged again: even another target may take its place
    assert not (out / "model_repository").exists()


def test_a_changed_deployment_fails_its_check(folder, tmp_path):
    aaexport.deploy(folder, "ray", tmp_path / "out")
    (tmp_path / "out/serve.yaml").write_text("proxy_location: Nowhere\n")
    result = aaexport.check_deployment(tmp_path / "out")
    failed = {check.name: check.found for check in result.checks if not check.passed}
    assert failed["files"] == "serve.yaml changed"
    assert "proxy_location must be one of" in failed["configuration"]


@pytest.mark.parametrize(
    ("to", "options", "complaint"),
    [
        (
            "trition",
            {},
            "to must be one of triton, kserve, ray, container, web, got 'trition'; did you mean 'triton'?",
        ),
        ("ray", {"device": "cuda"}, "device must be left out for ray, got 'cuda'; it is for triton and kserve"),
        ("container", {"unbatched": "x.json"}, "unbatched must be left out for container"),
        ("triton", {"storage": "pvc://x"}, "storage must be left out for triton"),
        ("triton", {"tensorrt": True}, "device must be cuda for tensorrt, got 'cpu'"),
        ("triton", {"device": "cuda", "fp16": True}, "tensorrt must be on with fp16, which it does, got 'off'"),
        ("triton", {"device": "tpu"}, "device must be cpu, cuda or cuda:N"),
        ("kserve", {"device": "cuda:1"}, "device must be cpu or cuda on kserve"),
        ("kserve", {"storage": "models"}, "storage must be SCHEME://PLACE"),
        ("kserve", {"namespace": "My Team"}, "namespace must be a label of DNS"),
        ("kserve", {"min_replicas": 3, "max_replicas": 2}, "min_replicas must be at most 2, max_replicas, got 3"),
        ("ray", {"max_batch": 0}, "max_batch must be between 1 and 65536, got 0"),
        ("ray", {"max_delay": -1.0}, "max_delay must be at least 0 ms"),
        ("ray", {"batching": True, "unbatched": "x"}, "unbatched must be left out where batching is decided"),
        ("ray", {"replicas": 2}, "an argument of deploy must be one that it has, got 'replicas'"),
    ],
)
def test_options_that_break_their_rules(folder, tmp_path, to, options, complaint):
    with pytest.raises(ArgumentError) as caught:
        aaexport.deploy(folder, to, tmp_path / "out", **options)
    assert str(caught.value).startswith(complaint)


def test_tensorrt_is_not_given_what_cpus_take(tmp_path):
    folder, on_gpu = folder_in_fewer_bits(tmp_path / "digits"), {"device": "cuda", "tensorrt": True}
    with pytest.raises(ArgumentError, match=r"tensorrt must be given int8 that is signed .*--target cuda"):
        aaexport.deploy(folder, "triton", tmp_path / "out", dtype="int8", **on_gpu)
    assert not (tmp_path / "out").exists()
    aaexport.deploy(folder, "triton", tmp_path / "out", dtype="float16", **on_gpu)


def test_batching_is_on_only_where_it_won(folder, tmp_path):
    digest = file_digest(folder.onnx_path, ())
    bench, alone = folder.bench_path, tmp_path / "alone.json"
    settings, notes = as_measured(digest, bench, None, "cpu")
    assert not settings.batching
    assert "bench.json holds no peak search" in notes[0]
    peak(folder, bench, rate=300.0, max_batch=16)
    settings, notes = as_measured(digest, bench, None, "cpu")
    assert (settings.batching, settings.instances, settings.threads, settings.max_batch) == (False, 2, 1, 16)
    assert "nobody measured whether that is higher than without" in notes[0]
    peak(folder, alone, rate=200.0)
    settings, notes = as_measured(digest, bench, alone, "cpu")
    assert (settings.batching, settings.max_delay) == (True, 3.0)
    assert notes == ("batching wins: 300 queries/s against 200 without",)
    peak(folder, alone, rate=400.0)
    settings, notes = as_measured(digest, bench, alone, "cpu")
    assert (settings.batching, settings.max_delay) == (False, 0.0)
    assert notes == ("no batching, as it does not win: 300 queries/s against 400 without",)
    peak(folder, bench, rate=300.0, max_batch=1)
    assert not as_measured(digest, bench, None, "cpu")[0].batching


def test_measurements_of_something_else_say_nothing(folder, tmp_path):
    digest = file_digest(folder.onnx_path, ())
    peak(folder, folder.bench_path, max_batch=16, digest="cd" * 32)
    assert "is of another file" in as_measured(digest, folder.bench_path, None, "cpu")[1][0]
    peak(folder, folder.bench_path, max_batch=16)
    assert "was measured by CPUExecutionProvider" in as_measured(digest, folder.bench_path, None, "cuda")[1][0]
    peak(folder, folder.bench_path, max_batch=16, valid=False)
    assert "is not valid" in as_measured(digest, folder.bench_path, None, "cpu")[1][0]
    peak(folder, folder.bench_path, max_batch=16, rate=None)
    assert "found no rate that keeps its bound" in as_measured(digest, folder.bench_path, None, "cpu")[1][0]
    peak(folder, folder.bench_path, max_batch=16)
    alone = peak(folder, tmp_path / "alone.json", latency_bound=50.0)
    with pytest.raises(DataError, match=r"with latency_bound 20\.0, got 50\.0"):
        as_measured(digest, folder.bench_path, alone, "cpu")
    peak(folder, alone, max_batch=2)
    with pytest.raises(DataError, match="unbatched must be measured with --max-batch 1, got 2"):
        as_measured(digest, folder.bench_path, alone, "cpu")
    peak(folder, alone, threads=2)
    with pytest.raises(DataError, match="with threads 1, got 2"):
        as_measured(digest, folder.bench_path, alone, "cpu")
    peak(folder, alone, valid=False)
    with pytest.raises(DataError, match="which is not valid"):
        as_measured(digest, folder.bench_path, alone, "cpu")
    peak(folder, alone, digest="cd" * 32)
    with pytest.raises(DataError, match="unbatched must be a valid peak search of the same file"):
        as_measured(digest, folder.bench_path, alone, "cpu")


@pytest.mark.parametrize("text", ["{", "[]", '{"schema": 1}', f'{{"schema": "{BENCH_SCHEMA}"}}'])
def test_what_is_no_measurement_is_said(tmp_path, text):
    path = tmp_path / "x.json"
    path.write_text(text)
    with pytest.raises(DataError, match="unbatched"):
        read_peak(path, "unbatched")
    with pytest.raises(DataError, match="cannot be read"):
        read_peak(tmp_path / "none.json")


@pytest.mark.parametrize("to", ["kserve", "ray"])
def test_a_replica_has_as_many_threads_as_cores(folder, tmp_path, to):
    """Left to itself onnxruntime takes one for each core of the host."""
    assert aaexport.deploy(folder, to, tmp_path / "out", cpus=2).settings["threads"] == 2
    assert aaexport.deploy(folder, to, tmp_path / "out", cpus=2, threads=1).settings["threads"] == 1


def test_one_bound_of_replicas_moves_the_other(folder, tmp_path):
    bounds = [
        aaexport.deploy(folder, "ray", tmp_path / "out", **given).settings
        for given in ({}, {"min_replicas": 9}, {"max_replicas": 1})
    ]
    assert [(one["min_replicas"], one["max_replicas"]) for one in bounds] == [(2, 4), (9, 9), (1, 1)]


def test_a_fixed_batch_shares_nothing(tmp_path):
    folder = digits_folder(tmp_path / "digits", batch=2)
    result = aaexport.deploy(folder, "triton", tmp_path / "out")
    assert result.notes == ("no batching: the file fixes its batch",)
    with pytest.raises(DeploymentError, match="convert it with a dynamic batch"):
        aaexport.deploy(folder, "triton", tmp_path / "other", batching=True)


def test_the_command_writes_checks_and_refuses(cli, folder, tmp_path):
    outcome = cli("deploy", folder.path, "--to", "kserve", "--out", "out", "--memory", "1GiB", "--json")
    value = json.loads(outcome.out)
    assert outcome.code == 0
    assert value["passed"]
    assert value["settings"]["memory"] == 1024
    assert cli("deploy", "--check", "out").code == 0
    edit(tmp_path / "out/inference-service.yaml", "minReplicas", "minReplica")
    outcome = cli("deploy", "--check", "out")
    assert "did you mean 'minReplicas'?" in error_of(outcome, 3)
    assert "FAIL" in outcome.out
    assert "give --force" in error_of(cli("deploy", folder.path, "--to", "kserve", "--out", "out"), 1)
    assert "--check goes alone" in error_of(cli("deploy", folder.path, "--check", "out"), 2)
    assert "--out must be given" in error_of(cli("deploy", folder.path, "--to", "ray"), 2)
    assert "did you mean 'ray'?" in error_of(cli("deploy", folder.path, "--to", "rya", "--out", "x"), 2)
    assert "deployment.json must be there" in error_of(cli("deploy", "--check", folder.path), 1)
