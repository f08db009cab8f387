"""`convert --target cuda`: files that verify on the CPU, of which the CUDA provider makes what was foreseen."""

import pytest
from folders import tiny_folder
from repository import HELPERS

import aaexport
from aaexport.folder import checkout, zoo_models
from aaexport.pipeline.subject.subject import write_random_weights

NAMES = {"FLASH_ATTENTION": "flash", "EFFICIENT_ATTENTION": "memory-efficient", "MATH": "math"}


def converted(folder, opset, *, verify):
    """Its file for CUDA at that opset, and what `optimize` makes of it in float16: results by name."""
    path = folder.path / f"opset{opset}.onnx"
    results = {f"float32 at {opset}": aaexport.convert(folder, path, target="cuda", opset=opset, verify=verify)}
    narrow = path.with_suffix(".fp16.onnx")
    results[f"float16 at {opset}"] = aaexport.optimize(path, narrow, dtype="float16", target="cuda")
    return results


def seen_on(fake_cuda, results, log):
    """By name, what the provider does with each file."""
    ran = fake_cuda.run([HELPERS / "cuda_files.py", *(result.path for result in results.values())], log, timeout=600)
    return dict(zip(results, ran.json, strict=True))


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    folder = tiny_folder(tmp_path_factory.mktemp("cuda") / "tiny")
    write_random_weights(folder)
    return converted(folder, 23, verify=True)


@pytest.fixture(scope="module")
def seen(tiny, fake_cuda, tmp_path_factory):
    return seen_on(fake_cuda, tiny, tmp_path_factory.mktemp("seen") / "log")


def test_all_nodes_are_on_cuda_and_no_query_waits_for_the_host(tiny, seen):
    for name, result in tiny.items():
        assert list(seen[name]["placed"]) == ["CUDAExecutionProvider"], name
        assert (seen[name]["copied in"], seen[name]["copied out"]) == (1, 1), name
        assert (result.on_cuda.copies_inside, result.on_cuda.copies_at_its_ends) == (0, 2), name
        assert (result.on_cuda.without_kernel, result.on_cuda.logits_in_memory) == ((), ()), name
    assert tiny["float32 at 23"].parity.passed


def test_attention_gets_the_kernel_that_was_told(tiny, seen):
    foreseen = {name: result.on_cuda.attention.get(name[:7], {}) for name, result in tiny.items()}
    got = {name: {NAMES[kernel]: count for kernel, count in each["attention"].items()} for name, each in seen.items()}
    assert got == foreseen
    assert got["float32 at 23"] == {"memory-efficient": 1}
    assert got["float16 at 23"] == {"flash": 1}
    assert tiny["float32 at 23"].on_cuda.attention["float16"] == {"flash": 1}  # told before there is such a file


def test_other_targets_are_told_nothing_of_cuda(tiny, tmp_path):
    result = aaexport.optimize(tiny["float32 at 23"].path, tmp_path / "new.onnx", verify=False)
    assert result.on_cuda is None
    assert result.to_dict()["on_cuda"] is None


@pytest.mark.slow
def test_a_large_network_has_a_fused_kernel_for_every_layer(fake_cuda, tmp_path):
    folder = checkout("aa_resnet50", tmp_path / "large")
    write_random_weights(folder)
    results = converted(folder, 23, verify=False) | converted(folder, 20, verify=False)
    seen = seen_on(fake_cuda, results, tmp_path / "log")
    assert seen["float32 at 23"]["attention"] == {"EFFICIENT_ATTENTION": 13}
    assert seen["float16 at 23"]["attention"] == {"FLASH_ATTENTION": 13}
    for name, each in seen.items():
        assert list(each["placed"]) == ["CUDAExecutionProvider"], name
        assert (each["copied in"], each["copied out"]) == (1, 1), name


@pytest.mark.slow
@pytest.mark.parametrize("name", zoo_models())
def test_a_zoo_model_for_cuda_keeps_parity_and_stays_there(fake_cuda, name, tmp_path):
    """Each attention as one operator, and in float16 too, whatever the opset is by default."""
    folder = checkout(name, tmp_path / name)
    folder.weights_path.unlink(missing_ok=True)
    write_random_weights(folder)
    result = aaexport.convert(folder, target="cuda", opset=None if folder.recipe.attention is None else 23)
    assert result.parity.passed
    told = result.on_cuda
    assert (told.logits_in_memory, told.without_kernel, told.copies_inside) == ((), (), 0)
    narrow = aaexport.optimize(result.path, tmp_path / "narrow.onnx", dtype="float16", target="cuda")
    for dtype, seen in seen_on(fake_cuda, {"float32": result, "float16": narrow}, tmp_path / "log").items():
        assert list(seen["placed"]) == ["CUDAExecutionProvider"]
        assert {NAMES[kernel]: count for kernel, count in seen["attention"].items()} == told.attention.get(dtype, {})
        assert seen["copied in"] == 1
    print(f"{name}: opset {result.opset}, {result.decomposition}, {dict(told.attention)}, {result.seconds:.0f} s")
