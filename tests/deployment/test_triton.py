"""The repository for NVIDIA's container, and what its check finds."""

import os
import re
from dataclasses import replace

import pytest
from deployable import digits_facts, edit, failed, write
from live_services import require_engine

from aaexport.deployment.model_config import ENUMS, MESSAGES, read_config
from aaexport.deployment.settings import DeploySettings
from aaexport.deployment.triton import check, files, repository_settings
from aaexport.errors import DeploymentError
from aaexport.serving.client import Client
from aaexport.serving.engine import command_line, find_engine
from aaexport.serving.judge import why_wrong
from aaexport.serving.ports import settled_ports
from aaexport.serving.process import EngineProcess
from aaexport.serving.repository import repository_files

ON_A_GPU = DeploySettings(device="cuda", tensorrt=True, fp16=True, cuda_graph=True, batching=True, max_delay=2.0)
CONFIG = "model_repository/digits/config.pbtxt"


@pytest.mark.parametrize("settings", [DeploySettings(), ON_A_GPU, DeploySettings(images=True)])
def test_what_is_written_passes_its_check(facts, tmp_path, settings):
    found = list(check(write(files(facts, settings), tmp_path)))
    assert failed(found) == {}
    assert {"models", "digits: configuration", "digits: tensors"} <= {one.name for one in found}


@pytest.mark.parametrize("settings", [DeploySettings(), ON_A_GPU])
def test_tritons_own_messages_take_the_configuration(facts, settings):
    config = pytest.importorskip("tritonclient.grpc.model_config_pb2", reason="tritonclient is not installed")
    text_format = pytest.importorskip("google.protobuf.text_format")
    parsed = text_format.Parse(files(facts, settings)[CONFIG], config.ModelConfig())
    assert parsed.backend == "onnxruntime"
    assert parsed.HasField("dynamic_batching") == settings.batching
    assert parsed.model_warmup[0].inputs["input"].input_data_file == "golden_0"


def test_our_messages_are_tritons():
    """Each field of ours is one of Triton's, of the same kind, and so is each word of an enumeration."""
    config = pytest.importorskip("tritonclient.grpc.model_config_pb2", reason="tritonclient is not installed")
    theirs = {}
    waiting = list(config.DESCRIPTOR.message_types_by_name.values())
    while waiting:
        message = waiting.pop()
        theirs.setdefault(message.full_name, message)
        waiting += message.nested_types
    own = read_config("").DESCRIPTOR
    seen = set()

    def compare(ours, other):
        if ours.full_name in seen:
            return
        seen.add(ours.full_name)
        for field in ours.fields:
            there = other.fields_by_name[field.name]
            assert (field.type, field.is_repeated) == (there.type, there.is_repeated), field.full_name
            if field.enum_type is not None:
                assert set(field.enum_type.values_by_name) == set(there.enum_type.values_by_name)
            if field.message_type is not None:
                compare(field.message_type, there.message_type)

    compare(own, theirs["inference.ModelConfig"])
    assert {f"aaexport.triton.{name}" for name in MESSAGES} <= seen
    assert "TYPE_FP32" in ENUMS["DataType"]


def test_a_gpu_gets_one_engine_for_all_batches_and_numbers_in_float32(facts):
    text = files(facts, ON_A_GPU)[CONFIG]
    for key, value in (
        ("precision_mode", "FP16"),
        ("trt_cuda_graph_enable", "1"),
        ("trt_profile_min_shapes", "input:1x1x8x8"),
        ("trt_profile_max_shapes", "input:32x1x8x8"),
        ("use_tf32", "0"),
    ):
        assert re.search(f'key: "{key}"\\s+value: "{value}"', text), key


def test_a_size_that_is_open_has_no_bounds_to_build_an_engine_for(facts):
    (images,) = facts.inputs
    open_size = replace(facts, inputs=(replace(images, shape=(-1, 1, -1, 8)),), golden=())
    text = files(open_size, ON_A_GPU)[CONFIG]
    assert "trt_engine_cache_enable" in text
    assert "trt_profile" not in text


@pytest.mark.parametrize(("images", "shared"), [(False, ""), (True, "--shm-size 64m ")])
def test_docker_waits_for_the_drain_and_gives_images_their_memory(facts, images, shared):
    readme = files(facts, DeploySettings(images=images))["README.md"]
    assert f"docker run --rm --stop-timeout 75 {shared}-p 127.0.0.1:8000:8000" in readme


def test_nothing_that_stalls_is_written(facts):
    for settings in (DeploySettings(batching=True, max_delay=1.0), ON_A_GPU):
        assert "queue_policy" not in files(facts, settings)[CONFIG]


def test_a_fixed_batch_is_served_as_it_is(tmp_path):
    facts = digits_facts(tmp_path / "digits", batch=2)
    written = files(facts, DeploySettings())
    assert "max_batch_size: 0" in written[CONFIG]
    assert failed(check(write(written, tmp_path / "out"))) == {}


@pytest.mark.parametrize(
    ("old", "new", "fault"),
    [
        ("max_batch_size", "max_batch_sise", "no field named"),
        ("TYPE_FP32", "TYPE_FP33", "no value named TYPE_FP33"),
        ("max_batch_size: 32", 'max_batch_size: "many"', "integer"),
        ('name: "digits"', 'name: "digits" name: "digits"', "multiple"),
        ('name: "digits"', 'name: "others"', "name must be that of its folder"),
        ("TYPE_FP32", "TYPE_FP16", "data_type of input input must be TYPE_FP32, got TYPE_FP16"),
        ("dims: 8", "dims: 9", "dims of input input must make [-1, 1, 8, 8], got [-1, 1, 9, 8]"),
        ('name: "logits"', 'name: "scores"', "outputs must be those of model.onnx, logits, got scores"),
        ("max_batch_size: 32", "max_batch_size: 0 dynamic_batching { }", "max_batch_size must be at least 1"),
        (
            "max_batch_size: 32",
            "max_batch_size: 32 dynamic_batching { default_queue_policy { max_queue_size: 9 } }",
            "must not stand beside one instance",
        ),
        ("labels.txt", "names.txt", "label_filename of logits must be there"),
        ('"golden_0"', '"golden_1"', "warmup/golden_1 must hold 256 bytes"),
        ('"model.onnx"', '"other.onnx"', "version 1 must have its other.onnx"),
    ],
)
def test_a_spoilt_configuration_is_found(facts, tmp_path, old, new, fault):
    write(files(facts, DeploySettings()), tmp_path)
    edit(tmp_path / CONFIG, old, new)
    assert fault in " ".join(failed(check(tmp_path)).values())


def test_labels_of_another_number_and_a_missing_repository_are_found(facts, tmp_path):
    write(files(facts, DeploySettings()), tmp_path)
    (tmp_path / "model_repository/digits/labels.txt").write_text("0\n1\n")
    assert "must have a line for each of 10 classes, got 2" in failed(check(tmp_path))["digits: configuration"]
    assert "holds no model" in failed(check(tmp_path / "nothing"))["models"]


def test_what_is_no_configuration_is_said_in_tritons_names():
    with pytest.raises(DeploymentError, match=r'1:1 : Message type "ModelConfig" has no field named "nmae"'):
        read_config('nmae: "x"')


def test_its_twin_for_the_python_backend_is_loaded_by_the_real_core(facts, tmp_path):
    """The same configuration, in which only the backend differs, as Triton itself completes and warms it up."""
    require_engine()
    settings = repository_settings(facts, DeploySettings(batching=True, max_delay=1.0, max_batch=8))
    repository = write(repository_files(facts, replace(settings, backend="python")), tmp_path / "models")
    engine, ports = find_engine(), settled_ports("127.0.0.1", 0, 0, 0)
    room = tmp_path / "room"
    room.mkdir()
    command = command_line(engine, repository, engine.prepared(room), "127.0.0.1", ports, "secret", 2**26)
    command += ["--disable-auto-complete-config", "--load-model=digits"]
    process = EngineProcess(command, engine.environment(os.environ), room, "aaexport-twin-")
    try:
        with Client(f"grpc://127.0.0.1:{ports.grpc}", retry_for=60) as client:
            found = client.model("digits")  # asked again until the server is there
            assert [tensor.shape for tensor in found.inputs] == [(-1, 1, 8, 8)]
            told = client.config("digits")
            assert (told.max_batch, told.max_queue_delay_us) == (8, 1000)
            assert told.onnx_sha256 == facts.onnx_sha256
            query = facts.golden[0]
            assert why_wrong(query, client.infer("digits", dict(query.inputs)).outputs) is None
    except Exception:
        print(process.complaints())
        raise
    finally:
        process.stop()
