"""The tables of CUDA's kernels against the provider that is installed, on a GPU that computes nothing."""

import json

import pytest

from aaexport.graph.cuda_kernels import NO_KERNEL_SINCE, ONNXRUNTIME, attention_kernel, fused_depths, has_kernel

# Queries and keys, values; with a mask: of how many keys.
DEPTHS = [
    *[(48, 3, None), (48, 8, None), (48, 48, None), (34, 34, None), (40, 48, None), (8, 8, None)],
    *[(256, 256, None), (264, 264, None), (1024, 1024, None), (1032, 8, None)],
    *[(48, 48, 50), (48, 48, 52), (48, 8, 50), (48, 8, 52)],
]
TYPES = ("float32", "float16", "bfloat16")
NAMES = {"FLASH_ATTENTION": "flash", "EFFICIENT_ATTENTION": "memory-efficient", "MATH": "math"}
OPERATORS = (
    *["Elu", "MaxPool", "InstanceNormalization", "Selu", "ThresholdedRelu", "Hardmax", "Mean", "LpPool", "Dropout"],
    *["Acos", "Acosh", "Asin", "Asinh", "Atan", "Atanh", "Celu", "Cosh", "Det", "MeanVarianceNormalization", "Sinh"],
    *["Tan", "Unique", "EyeLike"],
    *["AveragePool", "Concat", "Conv", "Gemm", "GlobalAveragePool", "MatMul", "Max", "Pad", "ReduceMean", "Relu"],
    *["Reshape", "Resize", "Slice", "Softmax", "Transpose", "Add"],
)

CODE = """
import json, sys
import cuda_files
asked = json.loads(sys.argv[1])
print(json.dumps({
    "version": cuda_files.version(),
    "attention": cuda_files.kernels_of_attention(asked["attention"]),
    "on_cuda": cuda_files.operators_on_cuda(asked["operators"], asked["opsets"]),
    "copies": cuda_files.copies_of_nodes(),
}))
"""


@pytest.fixture(scope="module")
def seen(fake_cuda, tmp_path_factory):
    """What the installed provider does: one process for all questions."""
    attention = [[dtype, *depths] for dtype in TYPES for depths in DEPTHS]
    asked = {"attention": attention, "operators": OPERATORS, "opsets": [18, 20, 21, 22, 23, 25]}
    ran = fake_cuda.run(["-c", CODE, json.dumps(asked)], tmp_path_factory.mktemp("cuda") / "log")
    return ran.json


def test_the_tables_are_of_the_version_that_is_installed(seen):
    assert seen["version"] == ONNXRUNTIME


def test_every_attention_gets_the_kernel_that_the_table_says(seen):
    got = {(dtype, *depths): NAMES[kernel] for dtype, *depths, kernel in seen["attention"]}
    assert got == {(dtype, *depths): attention_kernel(dtype, *depths) for dtype in TYPES for depths in DEPTHS}
    assert set(got.values()) == set(NAMES.values())


def test_padded_depths_are_those_of_a_fused_kernel(seen):
    for dtype in TYPES:
        for depth, of_values, _ in DEPTHS:
            wanted = fused_depths(dtype, depth, of_values)
            assert (wanted is None) == (max(depth, of_values) > 1024)
            if wanted is not None:
                assert attention_kernel(dtype, *wanted) != "math"
                assert wanted[0] >= depth
                assert wanted[1] >= of_values


def test_operators_are_placed_as_the_table_says(seen):
    said = {f"{name} {opset}": has_kernel(name, opset) for name in OPERATORS for opset in (18, 20, 21, 22, 23, 25)}
    assert seen["on_cuda"] == said
    assert {name for name in OPERATORS if name in NO_KERNEL_SINCE} >= {"MaxPool", "Elu", "Acos"}


def test_what_kernels_copy_at_each_query_is_counted_right(seen):
    """By name, what the provider did and what was foreseen: the same, and not nothing."""
    assert {name: done for name, (done, _) in seen["copies"].items()} == {
        name: foreseen for name, (_, foreseen) in seen["copies"].items()
    }
    assert seen["copies"]["uneven Split"][0] > 0
    assert seen["copies"]["repeated MatMul"][0] > 0


OF_A_GPU = """
import json, cuda_files
asked = [[dtype, 48, 48, None] for dtype in ("float32", "float16", "bfloat16")]
print(json.dumps([kernel for *_, kernel in cuda_files.kernels_of_attention(asked)]))
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("capability", "kernels"),
    [
        (75, ["memory-efficient", "memory-efficient", "math"]),
        (80, ["memory-efficient", "flash", "flash"]),
        (120, ["memory-efficient", "flash", "flash"]),
    ],
)
def test_flash_kernels_are_for_later_gpus_as_the_page_says(fake_cuda, tmp_path, capability, kernels):
    """float32, float16, bfloat16; the table is of those that have them."""
    got = fake_cuda.run(["-c", OF_A_GPU], tmp_path / "log", capability=capability).json
    assert [NAMES[kernel] for kernel in got] == kernels


# These have a kernel for some attributes and types only, which the table does not tell.
SOMETIMES = {"GRU", "LSTM", "OneHot"}
EVERY_CASE = """
import json, warnings
warnings.simplefilter("ignore")
import cuda_files
print(json.dumps(cuda_files.placements_of_cases([18, 20, 21, 22, 23, 24, 25])))
"""


@pytest.mark.slow
def test_every_operator_of_onnx_s_own_cases_is_placed_as_the_table_says(fake_cuda, tmp_path):
    found = fake_cuda.run(["-c", EVERY_CASE], tmp_path / "log", timeout=900).json
    assert len({operator for operator, *_ in found}) > 100
    wrong = [
        (operator, version, dtype, there)
        for operator, version, dtype, there in found
        if operator not in SOMETIMES and (operator, dtype) != ("GridSample", "float16")
        and there != has_kernel(operator, max(version, 18))
    ]  # fmt: skip
    assert wrong == []
