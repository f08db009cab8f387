"""The runners: what they answer, what they refuse and in which words, and the device that is or is not there."""

import copy
import subprocess
import sys

import numpy as np
import pytest
import torch
from onnx import TensorProto, helper
from onnx_files import convolution, serialized
from torch import nn

from aaexport.device import parse_device
from aaexport.errors import ArgumentError, ProviderError, RunnerError
from aaexport.graph.probe import probe_model
from aaexport.parity import TOLERANCES
from aaexport.runners.base import Port
from aaexport.runners.ort import WORKS, OrtRunner, best_device, working_providers
from aaexport.runners.ort_settings import AS_WRITTEN, EXACT, PROVIDERS, SessionSettings
from aaexport.runners.torch import TorchRunner

ONE = np.ones(1, np.float32)
IMAGE = (1, 4, 4)


@pytest.fixture(scope="module")
def providers():
    return working_providers()


@pytest.fixture
def no_cuda(providers):
    if providers.get(PROVIDERS["cuda"]) == WORKS:
        pytest.skip("CUDA works here")


@pytest.fixture
def images(rng):
    return rng.standard_normal((3, *IMAGE), dtype=np.float32)


def identity(value):
    output = copy.deepcopy(value)
    output.name = "y"
    return serialized([helper.make_node("Identity", ["x"], ["y"])], [value], [output])


def torch_runner(module, *output_names, **options):
    return TorchRunner(module, ("input",), output_names or ("output",), input_shape=IMAGE, **options)


class Chooses(nn.Module):
    def __init__(self, how):
        super().__init__()
        self.how = how

    def forward(self, x):
        return self.how(x)


@pytest.mark.parametrize("keepdim", [False, True])
@pytest.mark.parametrize("dim", [None, 1, -1])
def test_choices_are_told_with_the_scores_that_they_point_at(keepdim, dim, rng):
    images = rng.standard_normal((2, *IMAGE), dtype=np.float32)
    with torch_runner(Chooses(lambda x: x.argmax(dim, keepdim))) as runner:
        (positions,) = runner.infer({"input": images}).values()
        scores, axis, keeps = runner.choices({"input": images})["output"]
    if not keeps:
        positions = np.expand_dims(positions, axis)
    found = np.take_along_axis(scores, positions, axis)
    np.testing.assert_array_equal(found, scores.max(axis, keepdims=True))
    assert scores.size == images.size


def test_whole_numbers_that_are_no_positions_are_no_choices(rng):
    images = rng.standard_normal((2, *IMAGE), dtype=np.float32)
    with torch_runner(Chooses(lambda x: (x > 0).long().max())) as runner:
        assert runner.choices({"input": images}) == {}


class Outputs(nn.Module):
    """Two outputs in whatever `container` makes of them."""

    def __init__(self, container):
        super().__init__()
        self.container = container

    def forward(self, x):
        return self.container([x + 1, x * 2])


# Devices


@pytest.mark.parametrize(
    ("device", "parsed"),
    [("cpu", ("cpu", 0)), ("cuda", ("cuda", 0)), ("cuda:0", ("cuda", 0)), ("cuda:12", ("cuda", 12))],
)
def test_a_device_is_a_kind_and_an_index(device, parsed):
    assert parse_device(device) == parsed


@pytest.mark.parametrize(
    "device", ["gpu", "cuda:x", "cuda:", "cuda:-1", "cuda:0:1", "cuda0", "cpu:0", "CPU", "", " cpu"]
)
def test_anything_else_is_no_device(device):
    with pytest.raises(ArgumentError) as caught:
        parse_device(device)
    assert str(caught.value) == f"device must be cpu, cuda or cuda:N, got {device!r}"


def test_a_gpu_or_a_part_of_one_is_named_to_cuda_itself():
    with pytest.raises(ArgumentError, match=r"got 'MIG-1a2b'; take cuda, with CUDA_VISIBLE_DEVICES=MIG-1a2b in the "):
        parse_device("MIG-1a2b")


@pytest.mark.parametrize(
    "runner", [lambda: OrtRunner(probe_model(), device="gpu"), lambda: torch_runner(nn.ReLU(), device="gpu")]
)
def test_a_runner_refuses_what_is_no_device(runner):
    with pytest.raises(ArgumentError, match="device must be"):
        runner()


# onnxruntime


def test_onnxruntime_tells_the_inputs_of_a_model():
    assert OrtRunner(probe_model()).inputs == (Port("x", np.dtype(np.float32), (1,)),)


def test_onnxruntime_tells_a_dimension_of_any_size_as_none(rng):
    assert OrtRunner(convolution(rng)).inputs[0].shape == (None, 8, 12, 12)


@pytest.mark.parametrize(
    ("element", "dtype"),
    [(TensorProto.DOUBLE, np.float64), (TensorProto.FLOAT16, np.float16), (TensorProto.INT64, np.int64)],
    ids=["double", "float16", "int64"],
)
def test_onnxruntime_tells_the_types_of_inputs_as_numpys(element, dtype):
    model = identity(helper.make_tensor_value_info("x", element, [1]))
    assert OrtRunner(model).inputs[0].dtype == dtype


@pytest.mark.parametrize(
    "value",
    [
        helper.make_tensor_value_info("x", TensorProto.STRING, [1]),
        helper.make_tensor_sequence_value_info("x", TensorProto.FLOAT, [1]),
    ],
    ids=["strings", "a sequence"],
)
def test_an_input_that_no_array_of_numbers_can_feed_is_refused(value):
    with pytest.raises(RunnerError):
        OrtRunner(identity(value))


def test_onnxruntime_infers_by_name():
    assert OrtRunner(probe_model()).infer({"x": ONE}) == {"y": 2 * ONE}


def test_onnxruntime_infers_from_a_file(tmp_path):
    path = tmp_path / "probe.onnx"
    path.write_bytes(probe_model())
    assert OrtRunner(path).infer({"x": ONE}) == {"y": 2 * ONE}


def test_onnxruntime_infers_without_its_optimizations_and_with_one_thread():
    assert OrtRunner(probe_model(), SessionSettings(optimize=False, threads=1)).infer({"x": ONE}) == {"y": 2 * ONE}


def test_the_cpu_is_the_default_provider():
    assert OrtRunner(probe_model()).provider == "CPUExecutionProvider"


def test_the_label_names_runtime_and_provider():
    assert OrtRunner(probe_model()).label == "onnxruntime CPU"


@pytest.mark.parametrize(
    "feeds",
    [{"x": np.ones(2, np.float32)}, {"x": np.ones(1)}, {}, {"z": ONE}, {"x": ONE, "z": ONE}],
    ids=["shape", "type", "missing", "misnamed", "additional"],
)
def test_onnxruntime_refuses_inputs_that_do_not_fit_in_one_line(feeds):
    with pytest.raises(RunnerError) as caught:
        OrtRunner(probe_model()).infer(feeds)
    assert str(caught.value).startswith("onnxruntime cannot run the model: ")
    assert "\n" not in str(caught.value)


def test_onnxruntime_refuses_bytes_that_are_no_model_in_one_line():
    with pytest.raises(RunnerError) as caught:
        OrtRunner(b"not a model")
    assert str(caught.value).startswith("onnxruntime cannot load the model: ")
    assert "\n" not in str(caught.value)


def test_onnxruntime_refuses_a_file_that_is_not_there(tmp_path):
    with pytest.raises(RunnerError, match=r"nothing\.onnx"):
        OrtRunner(tmp_path / "nothing.onnx")


def test_what_onnxruntime_refuses_leaves_no_stray_lines(capfd):
    with pytest.raises(RunnerError):
        OrtRunner(probe_model()).infer({"x": np.ones(2, np.float32)})
    assert capfd.readouterr() == ("", "")


# Placement


def test_placement_names_the_nodes_of_each_provider(rng):
    runner = OrtRunner(convolution(rng), AS_WRITTEN, record_placement=True)
    if not hasattr(runner.session, "get_provider_graph_assignment_info"):
        pytest.skip("this onnxruntime cannot tell")
    assert runner.placement == {"CPUExecutionProvider": ("Conv", "the last (Relu)")}


def test_placement_that_was_not_recorded_is_none(rng):
    assert OrtRunner(convolution(rng)).placement is None


def test_placement_that_onnxruntime_cannot_tell_is_none(rng):
    runner = OrtRunner(convolution(rng), record_placement=True)
    runner.session = object()
    assert runner.placement is None


@pytest.mark.cuda
def test_placement_on_cuda_names_what_stayed_on_the_cpu(cuda):
    """Strings are for the CPU alone."""
    nodes = [helper.make_node("Relu", ["x"], ["y"]), helper.make_node("Cast", ["x"], ["s"], to=TensorProto.STRING)]
    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, [1]) for name in "xy")
    s = helper.make_tensor_value_info("s", TensorProto.STRING, [1])
    placement = OrtRunner(serialized(nodes, [x], [y, s]), device=cuda, record_placement=True).placement
    assert "Relu" in placement[PROVIDERS["cuda"]]
    assert "Cast" in placement[PROVIDERS["cpu"]]


# Providers


def test_the_cpu_provider_works(providers):
    assert providers["CPUExecutionProvider"] == WORKS


def test_a_provider_that_does_not_work_has_a_reason_of_one_line(providers):
    reasons = [state for state in providers.values() if state != WORKS]
    assert all(reason and "\n" not in reason for reason in reasons)


def test_trying_providers_leaves_no_stray_lines(capfd):
    working_providers()
    assert capfd.readouterr() == ("", "")


@pytest.mark.usefixtures("no_cuda")
def test_the_best_device_without_cuda_is_the_cpu():
    assert best_device() == "cpu"


@pytest.mark.usefixtures("no_cuda")
def test_cuda_that_does_not_work_is_an_error_with_cause_and_remedy(providers):
    with pytest.raises(ProviderError) as caught:
        OrtRunner(probe_model(), device="cuda")
    text = str(caught.value)
    cause = providers.get(PROVIDERS["cuda"], "is not part of this onnxruntime")
    assert cause in text
    assert text.endswith("or use --device cpu")


@pytest.mark.usefixtures("no_cuda")
def test_cuda_that_does_not_work_leaves_no_stray_lines(capfd):
    with pytest.raises(ProviderError):
        OrtRunner(probe_model(), device="cuda")
    assert capfd.readouterr() == ("", "")


@pytest.mark.cuda
def test_the_best_device_with_cuda_is_cuda(cuda):
    assert best_device() == cuda


@pytest.mark.cuda
def test_cuda_is_the_provider_that_was_asked_for(cuda, rng):
    assert OrtRunner(convolution(rng), device=cuda).provider == "CUDAExecutionProvider"


@pytest.mark.cuda
def test_cuda_agrees_with_the_cpu(cuda, rng):
    model = convolution(rng)
    feeds = {"x": rng.standard_normal((5, 8, 12, 12), dtype=np.float32)}
    on_cpu = OrtRunner(model).infer(feeds)["y"]
    on_cuda = OrtRunner(model, EXACT, device=cuda).infer(feeds)["y"]
    tolerance = TOLERANCES["float32", "cuda"]
    limit = tolerance.atol + tolerance.rtol * np.abs(on_cpu).max()
    assert np.abs(on_cuda - on_cpu).max() <= limit


# PyTorch


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_pytorch_infers_in_its_type(images, dtype):
    module = nn.Conv2d(1, 2, 3)
    output = torch_runner(module, dtype=dtype).infer({"input": images})["output"]
    expected = copy.deepcopy(module).to(dtype)(torch.from_numpy(images).to(dtype)).detach().numpy()
    np.testing.assert_array_equal(output, expected, strict=True)


@pytest.mark.parametrize(
    ("dtype", "label"),
    [(torch.float32, "PyTorch eager cpu float32"), (torch.float64, "PyTorch eager cpu float64")],
    ids=["float32", "float64"],
)
def test_the_label_names_device_and_type(dtype, label):
    assert torch_runner(nn.ReLU(), dtype=dtype).label == label


def test_pytorch_tells_the_inputs():
    port = Port("input", np.dtype(np.float64), (None, *IMAGE))
    assert torch_runner(nn.ReLU(), dtype=torch.float64).inputs == (port,)


def test_pytorch_runs_in_evaluation_mode(images):
    output = torch_runner(nn.Dropout(0.5)).infer({"input": images})["output"]
    np.testing.assert_array_equal(output, images)


def test_the_module_keeps_its_mode_its_type_and_its_weights(images):
    module = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2))
    module[1].eval()
    modes = [part.training for part in module.modules()]
    state = copy.deepcopy(module.state_dict())
    torch_runner(module, dtype=torch.float64).infer({"input": images})
    assert [part.training for part in module.modules()] == modes
    for name, tensor in module.state_dict().items():
        torch.testing.assert_close(tensor, state[name], rtol=0, atol=0)


def test_a_change_of_the_module_does_not_reach_its_runner(images):
    module = nn.Conv2d(1, 1, 1)
    runner = torch_runner(module)
    before = runner.infer({"input": images})["output"]
    nn.init.zeros_(module.weight)
    np.testing.assert_array_equal(runner.infer({"input": images})["output"], before)


@pytest.mark.parametrize(
    "container",
    [tuple, list, lambda tensors: dict(zip(("plus", "times"), tensors, strict=True))],
    ids=["tuple", "list", "dict"],
)
def test_several_outputs_are_named_in_their_order(images, container):
    outputs = torch_runner(Outputs(container), "first", "second").infer({"input": images})
    assert list(outputs) == ["first", "second"]
    np.testing.assert_array_equal(outputs["first"], images + 1)
    np.testing.assert_array_equal(outputs["second"], images * 2)


@pytest.mark.parametrize("names", [("first",), ("first", "second", "third")])
def test_another_number_of_outputs_than_names_is_refused(images, names):
    with pytest.raises(RunnerError) as caught:
        torch_runner(Outputs(tuple), *names).infer({"input": images})
    assert str(caught.value) == f"the module must return {len(names)} tensors, got 2"


@pytest.mark.parametrize("feeds", [{"input": np.ones((1, 2, 4, 4), np.float32)}, {}], ids=["shape", "missing"])
def test_pytorch_refuses_inputs_that_do_not_fit_in_one_line(feeds):
    with pytest.raises(RunnerError) as caught:
        torch_runner(nn.Conv2d(1, 2, 3)).infer(feeds)
    assert "\n" not in str(caught.value)


@pytest.mark.skipif(torch.cuda.is_available(), reason="torch finds a CUDA device")
def test_pytorch_without_a_cuda_device_refuses_cuda():
    with pytest.raises(ProviderError) as caught:
        torch_runner(nn.ReLU(), device="cuda")
    told = f"PyTorch {torch.__version__} finds no CUDA device; install a build of it for CUDA"
    assert str(caught.value) == f"device must be one that works here, got 'cuda': {told}"


def precisions():
    return torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32


@pytest.mark.parametrize("tf32", [True, False])
def test_pytorch_takes_tf32_for_matrix_products_and_convolutions_alike_until_it_is_left(tf32):
    before = precisions()
    with torch_runner(nn.ReLU(), tf32=tf32) as runner:
        assert precisions() == (tf32, tf32)
    assert precisions() == before, runner.label  # which is still alive: that it goes must not be what restores them


def test_pytorchs_own_precisions_are_left_alone_unless_one_is_asked_for():
    before = precisions()
    with torch_runner(nn.ReLU()):
        assert precisions() == before


def test_the_compiler_takes_the_precision_that_was_set():
    """It reads torch's settings in its own way, and refuses some mixtures of them."""
    with torch_runner(nn.ReLU(), tf32=True):
        assert torch.get_float32_matmul_precision() == "high"
        assert torch.backends.cuda.matmul.fp32_precision == "tf32"


def test_where_somebody_has_used_torchs_newer_interface_it_is_used_and_restored():
    """Torch refuses to read the older one then; so it is done in a process of its own."""
    code = """
import torch
from torch import nn
from aaexport.runners.torch import TorchRunner
parts = (torch.backends.cuda.matmul, torch.backends.cudnn.conv)
torch.backends.cuda.matmul.fp32_precision = "tf32"
before = [part.fp32_precision for part in parts]
for tf32, name in ((True, "tf32"), (False, "ieee")):
    with TorchRunner(nn.ReLU(), ("x",), ("y",), input_shape=(1, 4, 4), tf32=tf32):
        assert [part.fp32_precision for part in parts] == [name, name]
assert [part.fp32_precision for part in parts] == before
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_pytorch_answers_the_same_with_the_channels_last(images):
    layer = nn.Conv2d(1, 4, 3)
    with torch_runner(layer) as plain, torch_runner(layer, channels_last=True) as runner:
        expected = plain.infer({"input": images})["output"]
        np.testing.assert_allclose(runner.infer({"input": images})["output"], expected, rtol=1e-5, atol=1e-6)
        assert runner.module.weight.is_contiguous(memory_format=torch.channels_last)
        assert runner.label == "PyTorch eager cpu float32, channels last"


def test_pytorch_under_autocast_computes_in_float16_and_answers_in_float32(images):
    seen = []

    class Told(nn.Conv2d):
        def forward(self, x):
            out = super().forward(x)
            seen.append(out.dtype)
            return out

    with torch_runner(Told(1, 4, 3), autocast=True) as runner:
        assert runner.infer({"input": images})["output"].dtype == np.float32
        assert runner.label == "PyTorch eager cpu float32, autocast to float16"
    assert seen == [torch.float16]


@pytest.mark.cuda
def test_nothing_is_left_on_the_device_when_pytorch_has_answered(torch_cuda):
    """A clock around `infer` is honest only then."""
    module = nn.Sequential(nn.Conv2d(1, 64, 3, padding=1), *(nn.Conv2d(64, 64, 3, padding=1) for _ in range(20)))
    with TorchRunner(module, ("input",), ("output",), input_shape=(1, 256, 256), device=torch_cuda) as runner:
        runner.infer({"input": np.zeros((8, 1, 256, 256), np.float32)})
        assert torch.cuda.current_stream().query()
