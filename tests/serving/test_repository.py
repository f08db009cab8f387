"""The files of a Triton model repository, without Triton."""

import ast
import json
import re
import sys

import numpy as np
import pytest
from served import IMAGE, facts, query

from aaexport.errors import ArgumentError, FolderError
from aaexport.pipeline.serve.options import ServeOptions
from aaexport.serving.pbtxt import Word, entries, text_of
from aaexport.serving.repository import (
    BACKEND_FILES,
    Batching,
    RepositorySettings,
    image_config,
    model_config,
    model_files,
    repository_files,
    require_distinct,
    write_files,
)

TWINS = [RepositorySettings(), RepositorySettings(backend="onnxruntime")]


def parsed(text):
    """The configuration as the protocol's own class has it: unknown fields, types and words are refused."""
    config = pytest.importorskip("tritonclient.grpc.model_config_pb2", reason="tritonclient is not installed")
    text_format = pytest.importorskip("google.protobuf.text_format")
    return text_format.Parse(text, config.ModelConfig())


def test_text_is_quoted_and_words_are_not():
    text = text_of({"name": 'a"b\\c\n\x01é', "kind": Word("KIND_CPU"), "on": True, "dims": [1, 2], "none": []})
    assert text == 'name: "a\\"b\\\\c\\n\\001é"\nkind: KIND_CPU\non: true\ndims: 1\ndims: 2\n'


def test_a_map_is_entries_of_key_and_value():
    assert text_of({"m": entries({"k": {"v": 1}})}) == 'm {\n  key: "k"\n  value {\n    v: 1\n  }\n}\n'


@pytest.mark.parametrize("settings", TWINS, ids=lambda settings: settings.backend)
def test_the_configuration_says_what_the_file_takes(settings):
    message = parsed(text_of(model_config(facts(), settings, "digits")))
    assert (message.name, message.backend, message.max_batch_size) == ("digits", settings.backend, 32)
    assert [(port.name, list(port.dims)) for port in message.input] == [("input", [1, 8, 8])]
    assert [(port.name, list(port.dims)) for port in message.output] == [("logits", [3])]
    assert message.output[0].label_filename == "labels.txt"
    assert message.parameters["onnx_sha256"].string_value == "ab" * 32
    warmup = message.model_warmup[0]
    assert warmup.batch_size == 1
    assert list(warmup.inputs["input"].dims) == [1, 8, 8]


def test_a_service_on_a_gpu_tells_tritons_own_backend_to_compute_in_float32():
    options = ServeOptions(device="cuda:1")
    message = parsed(text_of(model_config(facts(), options.settings("onnxruntime", None), "digits")))
    (cuda,) = message.optimization.execution_accelerators.gpu_execution_accelerator
    assert (cuda.name, cuda.parameters["use_tf32"]) == ("cuda", "0")
    assert list(message.instance_group[0].gpus) == [1]
    for settings in (options.settings("python", None), ServeOptions().settings("onnxruntime", None)):
        assert "optimization" not in model_config(facts(), settings, "digits")


def test_the_image_model_takes_bytes_as_numbers_and_tells_classes():
    message = parsed(text_of(image_config(facts(), IMAGE)))
    types = message.DESCRIPTOR.fields_by_name["input"].message_type.fields_by_name["data_type"].enum_type
    assert message.input[0].data_type == types.values_by_name["TYPE_UINT8"].number
    assert [(port.name, list(port.dims)) for port in message.output] == [
        ("class", [3]),
        ("label", [3, 5]),
        ("probability", [3]),
    ]


def test_the_twins_differ_in_the_backend_and_what_runs_it_only():
    python, native = (repository_files(facts(), settings) for settings in TWINS)
    assert set(python) - set(native) == {f"digits/1/{file}.py" for file in ("model", "faults", "at_work")}
    assert not set(native) - set(python)
    of_ours = re.compile(r'parameters \{\n  key: "(device|max_batch)"\n.*?\n  \}\n\}\n', re.DOTALL)
    ours = of_ours.sub("", python["digits/config.pbtxt"])
    theirs = native["digits/config.pbtxt"]
    assert ours.replace('"python"', '"onnxruntime"').replace('"model.py"', '"model.onnx"') == theirs


def test_a_file_of_a_fixed_batch_is_served_at_its_own():
    config = model_config(facts(batch=4, golden=(query(4),)), RepositorySettings(), "digits")
    assert config["max_batch_size"] == 0
    assert config["input"][0]["dims"] == [4, 1, 8, 8]
    assert "dynamic_batching" not in config


@pytest.mark.parametrize("instances", [1, 2])
def test_no_queue_policy_is_ever_written(instances):
    """With one instance it makes Triton stall for half a second now and then."""
    settings = RepositorySettings(batching=Batching(0.002, (4, 8)), instances=instances)
    text = text_of(model_config(facts(), settings, "digits"))
    assert "max_queue_delay_microseconds: 2000" in text
    assert "preferred_batch_size: 8" in text
    assert "queue_policy" not in text
    assert "timeout" not in text


def test_nothing_batches_that_was_not_to():
    assert "dynamic_batching" not in model_config(facts(), RepositorySettings(batching=None), "digits")


def test_a_gpu_is_named_by_its_number_to_whoever_opens_the_session():
    tritons = model_config(facts(), RepositorySettings(backend="onnxruntime", device="cuda:1"), "digits")
    assert tritons["instance_group"] == [{"kind": "KIND_GPU", "count": 1, "gpus": [1]}]
    config = model_config(facts(), RepositorySettings(device="cuda:1", threads=3), "digits")
    assert config["instance_group"] == [{"kind": "KIND_CPU", "count": 1}]  # a server that finds no GPU runs it too
    assert {entry["key"]: entry["value"]["string_value"] for entry in config["parameters"]} == {
        "onnx_sha256": "ab" * 32,
        "intra_op_thread_count": "3",
        "device": "cuda:1",
        "max_batch": "32",
    }


def test_the_warm_up_is_the_first_golden_image():
    files = model_files(facts(), RepositorySettings())
    assert files["digits/warmup/golden_0"] == np.ascontiguousarray(query().inputs["input"][:1]).tobytes()


def test_without_golden_vectors_there_is_no_warm_up():
    files = model_files(facts(golden=()), RepositorySettings())
    assert "model_warmup" not in files["digits/config.pbtxt"]
    assert not [name for name in files if "warmup" in name]


def test_labels_stand_one_a_line():
    assert repository_files(facts(), RepositorySettings())["digits/labels.txt"] == 'zero\no"ne\\\ntwó\n'


def test_without_preprocessing_there_is_no_image_model():
    assert not [name for name in repository_files(facts(image=None), RepositorySettings()) if "image" in name]


def test_what_is_written_is_the_files_or_links_to_them(tmp_path):
    onnx = tmp_path / "model.onnx"
    numbers = tmp_path / "model.onnx.0123456789abcdef.data"
    onnx.write_bytes(b"onnx")
    numbers.write_bytes(b"numbers")
    files = repository_files(facts(onnx=onnx, data_files=[numbers]), RepositorySettings(), 3)
    write_files(files, tmp_path / "copied")
    write_files(files, tmp_path / "linked", link=True)
    for root in ("copied", "linked"):
        folder = tmp_path / root / "digits" / "3"
        assert (folder / "model.onnx").read_bytes() == b"onnx"
        assert (folder / numbers.name).read_bytes() == b"numbers"
        assert (folder / "model.onnx").is_symlink() == (root == "linked")
    about = json.loads((tmp_path / "copied/digits_image/3/image.json").read_text(encoding="utf-8"))
    assert (about["model"], about["input"], about["labels"]) == ("digits", "input", list(IMAGE.labels))


def test_where_nothing_can_be_written_that_is_said(tmp_path):
    (tmp_path / "digits").write_text("in the way")
    with pytest.raises(FolderError, match=re.escape(f"{tmp_path}/digits/config.pbtxt cannot be written: ")):
        write_files({"digits/config.pbtxt": "name"}, tmp_path)


@pytest.mark.parametrize("names", [("a", "a"), ("a", "a_image")])
def test_two_models_of_one_name_are_refused(names):
    with pytest.raises(ArgumentError, match="models must have names of their own"):
        require_distinct([facts(name) for name in names])


@pytest.mark.parametrize(
    "wrong", [{"max_batch": 0}, {"instances": 0}, {"threads": 0}, {"batching": Batching(-1)}, {"device": "tpu"}]
)
def test_settings_out_of_range_are_refused(wrong):
    with pytest.raises(ArgumentError, match="must"):
        RepositorySettings(**wrong)


@pytest.mark.parametrize("file", ["tensors.py", "images.py", "faults.py", "../at_work.py"])
def test_what_runs_inside_triton_imports_nothing_of_ours(file):
    tree = ast.parse((BACKEND_FILES / file).read_text())
    names = {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
    names |= {node.module.partition(".")[0] for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    assert names - set(sys.stdlib_module_names) <= {
        "numpy",
        "onnxruntime",
        "triton_python_backend_utils",
        "pixels",
        "faults",
        "at_work",
    }
