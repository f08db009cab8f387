"""A live service, as its users have it: real Triton, a tiny model, both protocols."""

import io
import os
import shutil
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
import zlib
from pathlib import Path

import numpy as np
import pytest
from live_services import FREE, give_golden, require_engine, runs, service
from official_client import official_client, require_official_client

from aaexport.errors import ServiceError
from aaexport.folder import open_folder
from aaexport.runners.ort import OrtRunner
from aaexport.serving.client import Client
from aaexport.serving.reading import read_facts
from aaexport.serving.versions import read_served

PIL_IMAGE = pytest.importorskip("PIL.Image", reason="Pillow is not installed")


@pytest.fixture(scope="module")
def folder(converted_once, tmp_path_factory):
    path = tmp_path_factory.mktemp("served") / "tiny"
    shutil.copytree(converted_once, path)
    folder = open_folder(path)
    give_golden(folder)
    return folder


@pytest.fixture(scope="module")
def live(folder):
    """One service for all these tests; in the end it drains, and no process of it is left."""
    require_engine()
    with service(folder.path, "--check-every", "1s", "--max-batch", "8", "--watch") as running:
        yield running
        family = running.family()
        assert running.ends() == 0, running.said
        assert not [pid for pid in family if runs(pid)]


PATIENCE = 30.0  # seconds: what else the machine does at the moment must not decide


@pytest.fixture(params=["rest", "grpc"])
def client(live, request):
    with Client(live.facts[request.param], retry_for=0, timeout=PATIENCE) as client:
        yield client


@pytest.fixture(scope="module")
def right(folder):
    with OrtRunner(folder.onnx_path) as runner:
        yield lambda images: runner.infer({"input": images})["logits"]


def images(batch, seed=1):
    return np.random.default_rng(seed).standard_normal((batch, 1, 8, 8), dtype=np.float32)


def test_the_line_tells_what_is_served(live, folder):
    (model,) = live.facts["models"]
    assert (model["name"], model["image"], model["version"]) == ("tiny", "tiny_image", 1)
    assert model["onnx_sha256"] == read_facts(folder).onnx_sha256
    assert (model["max_batch"], model["golden"]) == (8, 3)
    assert live.facts["host"] == "127.0.0.1"


@pytest.mark.parametrize("batch", [1, 3, 8])
def test_answers_are_the_files_own(client, right, batch):
    asked = images(batch)
    np.testing.assert_allclose(client.infer("tiny", {"input": asked}).outputs["logits"], right(asked), atol=1e-5)


def test_the_configuration_tells_the_digest_of_the_file(client, folder):
    assert client.config("tiny").onnx_sha256 == read_facts(folder).onnx_sha256


@pytest.mark.parametrize(
    "asked", [images(9), images(1)[:, :, :7], images(1).astype(np.float64), images(1)[:0]], ids=["9", "7", "64", "0"]
)
def test_what_the_model_does_not_take_is_refused(client, asked):
    with pytest.raises(ServiceError) as raised:
        client.infer("tiny", {"input": asked})
    assert "400" in str(raised.value) or "INVALID_ARGUMENT" in str(raised.value)


@pytest.fixture(params=["http", "grpc"])
def official(live, request):
    """NVIDIA's own client."""
    require_official_client()
    with official_client(request.param, live.facts["rest" if request.param == "http" else "grpc"]) as official:
        yield official


def test_the_official_client_is_told_what_there_is(official):
    client = official.client
    assert client.is_server_live()
    assert client.is_server_ready()
    assert client.is_model_ready("tiny")
    assert not client.is_model_ready("nobody")
    assert official.told("get_server_metadata")["name"] == "triton"
    model = official.told("get_model_metadata", "tiny")
    assert (model["name"], model["versions"]) == ("tiny", ["1"])
    assert [(one["name"], one["datatype"], list(map(int, one["shape"]))) for one in model["inputs"]] == [
        ("input", "FP32", [-1, 1, 8, 8])
    ]
    config = official.told("get_model_config", "tiny")
    assert (config if official.way == "http" else config["config"])["max_batch_size"] == 8


def test_the_official_client_is_told_statistics(official):
    def answered():
        (stats,) = official.told("get_inference_statistics", "tiny")["model_stats"]
        return int(stats["inference_stats"]["success"]["count"])

    before = answered()
    official.infer(images(1))
    end = time.monotonic() + PATIENCE
    while answered() <= before and time.monotonic() < end:  # Triton counts an answer once it has been sent
        time.sleep(0.05)
    assert answered() > before


@pytest.mark.parametrize("batch", [1, 8])
def test_the_official_client_is_answered_as_the_file_answers(official, right, batch):
    asked = images(batch)
    for binary in (True, False) if official.way == "http" else (True,):  # else in JSON
        result = official.infer(asked, binary=binary, request_id="q7")
        np.testing.assert_allclose(result.as_numpy("logits"), right(asked), atol=1e-5)
        response = result.get_response()
        assert (response["id"] if official.way == "http" else response.id) == "q7"


def test_the_official_client_is_given_every_output_where_it_names_none(official, right):
    asked = images(2)
    result = official.client.infer("tiny", [official.given(asked)])
    np.testing.assert_allclose(result.as_numpy("logits"), right(asked), atol=1e-5)


REFUSED = {
    "shape": ({"array": images(1)[..., :-1].copy()}, "unexpected shape for input 'input'"),
    "rank": ({"array": images(1)[0]}, "unexpected shape for input 'input'"),
    "type": ({"array": images(1).astype(np.float64)}, "data-type is 'FP64', but model 'tiny' expects 'FP32'"),
    "input's name": ({"array": images(1), "name": "nobody"}, "unexpected inference input 'nobody'"),
    "output's name": ({"array": images(1), "output": "nobody"}, "unexpected inference output 'nobody'"),
    "batch of 0": ({"array": images(1)[:0]}, "input byte size mismatch for input 'input'"),
    "batch too large": ({"array": images(9)}, "batch-size must be <= 8"),
    "model": ({"array": images(1), "model": "nobody"}, "Request for unknown model: 'nobody' is not found"),
    "version": ({"array": images(1), "model_version": "9"}, "'tiny' version 9 is not found"),
}


@pytest.mark.parametrize("what", REFUSED)
def test_the_official_client_is_refused_by_the_protocols_error(official, what):
    from tritonclient.utils import InferenceServerException

    asked, cause = REFUSED[what]
    with pytest.raises(InferenceServerException) as raised:
        official.infer(**asked)
    assert cause in raised.value.message()
    statuses = {"http": ("400", "404"), "grpc": ("StatusCode.INVALID_ARGUMENT", "StatusCode.NOT_FOUND")}
    assert raised.value.status() == statuses[official.way][what in ("model", "version")]


def encoded(kind="PNG", size=(11, 9), mode="L"):
    stream = io.BytesIO()
    pixels = np.random.default_rng(2).integers(0, 256, (*size, *([3] if mode == "RGB" else [])), np.uint8)
    PIL_IMAGE.fromarray(pixels).save(stream, kind)
    return stream.getvalue()


@pytest.mark.parametrize("kind", ["PNG", "JPEG"])
@pytest.mark.parametrize("mode", ["L", "RGB"])
def test_an_image_file_is_told_its_classes_by_the_same_preprocessing(client, right, folder, tmp_path, kind, mode):
    """What evaluation makes of the file, through the file's own session, is what the service tells."""
    from aaexport.data.one_image import read_image

    content = encoded(kind, mode=mode)
    (tmp_path / "image").write_bytes(content)
    logits = right(read_image(tmp_path / "image", folder.recipe)[1].numpy())[0].astype(np.float64)
    shares = np.exp(logits - logits.max()) / np.exp(logits - logits.max()).sum()
    answer = client.infer("tiny_image", {"image": np.frombuffer(content, np.uint8)}).outputs
    best = np.argsort(-shares)[:5]
    assert answer["class"].tolist() == best.tolist()
    assert [bytes(row).rstrip(b"\0").decode() for row in answer["label"]] == [
        folder.recipe.input.names[n] for n in best
    ]
    np.testing.assert_allclose(answer["probability"], shares[best], atol=1e-5)


def bomb(side):
    """A small file whose head promises `side` × `side` pixels."""
    content = bytearray(encoded())
    content[16:24] = side.to_bytes(4, "big") * 2
    content[29:33] = zlib.crc32(content[12:29]).to_bytes(4, "big")
    return bytes(content)


@pytest.mark.parametrize(
    ("content", "cause"),
    [
        (b"junk", "cannot identify image"),
        (encoded()[:50], "image must be a readable JPEG or PNG file"),
        (bomb(9000), "9000 × 9000 pixels, more than"),
        (bomb(30000), "could be decompression bomb"),
    ],
    ids=["junk", "half", "bomb", "larger bomb"],
)
def test_what_is_no_image_is_refused(client, content, cause):
    with pytest.raises(ServiceError, match=cause) as raised:
        client.infer("tiny_image", {"image": np.frombuffer(content, np.uint8)})
    assert " object at " not in str(raised.value)
    assert "400" in str(raised.value) or "INVALID_ARGUMENT" in str(raised.value)


@pytest.mark.parametrize("call", ["unload", "load"])
def test_nobody_else_loads_and_unloads(client, call):
    with pytest.raises(ServiceError):
        getattr(client, call)("tiny")
    assert client.ready("tiny")


@pytest.mark.parametrize("path", ["systemsharedmemory/status", "cudasharedmemory/status", "trace/setting", "logging"])
def test_shared_memory_traces_and_logs_are_closed(live, path):
    with pytest.raises(urllib.error.HTTPError) as raised:
        urllib.request.urlopen(f"{live.facts['rest']}/v2/{path}", timeout=5)
    assert raised.value.code == 403
    raised.value.close()


def test_metrics_count_the_queries(live):
    with urllib.request.urlopen(live.facts["metrics"], timeout=5) as response:
        assert b'nv_inference_request_success{model="tiny"' in response.read()


def test_many_clients_get_their_own_answers(live, right):
    """None lost, doubled, swapped or wrong, over both protocols at once."""
    asked = images(64, seed=3)
    expected = right(asked)
    wrong = []

    def ask(number):
        with Client(live.urls[number % 2]) as own:
            for turn in range(4):
                row = (number + 7 * turn) % 64
                answer = own.infer("tiny", {"input": asked[row : row + 1]}).outputs["logits"]
                if np.abs(answer - expected[row : row + 1]).max() > 1e-5:
                    wrong.append((number, row))

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_a_killed_backend_is_loaded_again_and_a_retrying_client_loses_nothing(live, right):
    """Triton itself never starts it again, and goes on saying that it is ready."""
    server = next(iter(pid for pid in live.family() if b"tritonserver" in command_of(pid)))
    for pid in live.family() - {server}:
        if b"triton_python_backend_stub" in command_of(pid) and b"tiny/" in command_of(pid):
            os.kill(pid, 9)
    asked = images(1)
    with Client(live.urls, retry_for=30) as client:
        np.testing.assert_allclose(client.infer("tiny", {"input": asked}).outputs["logits"], right(asked), atol=1e-5)
    live.waits_for("tiny answers right again after")


def command_of(pid):
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return b""


@pytest.fixture
def other(live, folder, tmp_path):
    """Another conversion of the same network: other weights, and so other answers; not yet in the folder."""
    import onnx
    from onnx import numpy_helper

    model = onnx.load(folder.onnx_path)
    for tensor in model.graph.initializer:
        numbers = numpy_helper.to_array(tensor)
        if numbers.dtype == np.float32 and numbers.size > 8:
            tensor.CopyFrom(numpy_helper.from_array(numbers * np.float32(1.25), tensor.name))
    onnx.save(model, tmp_path / "model.onnx")
    return tmp_path / "model.onnx"


def put(folder, onnx_file):
    """As a conversion puts it there: the file, and then the manifest that records it."""
    shutil.copyfile(onnx_file, folder.path / ".new")
    (folder.path / ".new").replace(folder.onnx_path)
    folder.write_manifest()


@pytest.mark.slow
def test_a_new_conversion_takes_over_a_bad_one_does_not_and_there_is_a_way_back(live, folder, other):
    before = folder.onnx_path.read_bytes()
    put(folder, other)  # golden vectors of the former network
    line = live.waits_for("refused, version 1 stays")
    assert "must answer its golden vectors, got logits off by" in line
    live.said.clear()
    give_golden(folder)
    put(folder, other)
    live.waits_for("version 2 serves instead of 1")
    with Client(live.urls) as client, OrtRunner(other) as runner:
        asked = images(2)
        answer = client.infer("tiny", {"input": asked})
        np.testing.assert_allclose(answer.outputs["logits"], runner.infer({"input": asked})["logits"], atol=1e-5)
        assert answer.version == "2"
    done = subprocess.run(
        [sys.executable, "-m", "aaexport", "serve", "--rollback", str(folder.path)],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert done.stdout == f"{folder.path}: version 1 is to be served instead of 2; a running service follows\n"
    live.waits_for("version 1 serves instead of 2")
    assert read_served(folder.path).current == 1
    assert (folder.path / "served/1/model.onnx").read_bytes() == before
    time.sleep(1)  # several looks of the watchdog, by which the processes of the former version have ended
    assert not [line for line in live.said if "loaded anew" in line]


def test_a_second_service_on_the_same_port_is_refused_before_anything_is_loaded(live, folder):
    port = live.facts["rest"].rpartition(":")[2]
    command = [sys.executable, "-m", "aaexport", "serve", str(folder.path), *FREE, "--http-port", port]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].startswith(f"Error: --http-port must be free, got {port} at 127.0.0.1:")
    assert "checking" not in done.stderr
