"""What serving knows of a model folder, read without PyTorch."""

import subprocess
import sys

import numpy as np
import onnx
import pytest
from safetensors.numpy import save_file

from aaexport.errors import FolderError, GraphError
from aaexport.folder import open_folder
from aaexport.serving.golden import golden_queries
from aaexport.serving.reading import read_facts


def golden(folder, count=2, side=8):
    images = np.random.default_rng(0).standard_normal((count, 1, side, side), dtype=np.float32)
    save_file({"input": images, "logits": images.reshape(count, -1)[:, :10].copy()}, folder.golden_path)
    return images


def test_the_tensors_of_a_dynamic_file_are_told_with_its_digest(converted):
    images = golden(converted)
    facts = read_facts(converted)
    assert (facts.name, facts.fixed_batch, facts.batched) == ("tiny", None, True)
    assert [(tensor.name, tensor.datatype, tensor.shape) for tensor in facts.inputs] == [
        ("input", "FP32", (-1, 1, 8, 8))
    ]
    assert facts.onnx_sha256 in converted.manifest_path.read_text()
    np.testing.assert_array_equal(facts.golden[0].inputs["input"], images)
    assert (facts.image.labels[3], facts.image.scores, facts.image.top) == ("3", "logits", 5)


def fixed(folder, batch):
    model = onnx.load(folder.onnx_path)
    for value in (*model.graph.input, *model.graph.output):
        value.type.tensor_type.shape.dim[0].dim_value = batch
    onnx.save(model, folder.onnx_path)


def test_golden_images_are_repeated_to_the_batch_that_a_file_fixes(converted):
    images = golden(converted)
    fixed(converted, 5)
    facts = read_facts(converted)
    assert (facts.fixed_batch, facts.batched, facts.image) == (5, False, None)
    np.testing.assert_array_equal(facts.golden[0].inputs["input"], images[[0, 1, 0, 1, 0]])


def test_golden_images_of_another_size_are_no_questions(converted):
    golden(converted, side=9)
    assert read_facts(converted).golden == ()


def test_a_folder_without_golden_vectors_has_no_questions(converted):
    assert read_facts(converted).golden == ()


def test_half_a_file_of_golden_vectors_is_said(converted):
    golden(converted)
    converted.golden_path.write_bytes(converted.golden_path.read_bytes()[:40])
    with pytest.raises(FolderError, match=r"golden\.safetensors must be a whole file of golden vectors"):
        read_facts(converted)


def test_answers_that_are_not_finite_are_no_questions(tmp_path):
    path = tmp_path / "golden.safetensors"
    save_file({"input": np.ones((1, 2), np.float32), "logits": np.array([[np.nan]], np.float32)}, path)
    assert golden_queries(path, ["input"], ["logits"]) == ()


def test_a_folder_without_a_file_is_told_the_command(converted):
    converted.onnx_path.unlink()
    with pytest.raises(FolderError, match=r"model\.onnx must be there to be served, got none; run `aaexport convert"):
        read_facts(converted)


def test_a_name_that_no_url_holds_is_refused(converted):
    odd = converted.path.rename(converted.path.with_name("my model"))
    with pytest.raises(
        FolderError, match=r"have a name of letters, digits, '\.', '_' and '-', got 'my model'; rename"
    ):
        read_facts(open_folder(odd))


def test_a_tensor_that_no_protocol_carries_is_refused(converted):
    model = onnx.load(converted.onnx_path)
    model.graph.output[0].type.tensor_type.elem_type = onnx.TensorProto.BFLOAT16
    onnx.save(model, converted.onnx_path)
    with pytest.raises(
        GraphError, match=r"tensor logits of .*model\.onnx must be of one of float, double, .*'bfloat16'"
    ):
        read_facts(converted)


def test_reading_facts_loads_no_torch(converted_once):
    code = (
        "import sys; from pathlib import Path; from aaexport.folder import open_folder\n"
        "from aaexport.serving.reading import read_facts; from aaexport.serving import repository\n"
        f"read_facts(open_folder(Path({str(converted_once)!r})))\n"
        "assert not {'torch', 'onnxruntime'} & set(sys.modules)\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
