"""The examples that measure: what can be tested of them without a GPU and without believing a number."""

import importlib
import json
import os
import resource
import subprocess
import sys

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from repository import ROOT

import aaexport
from aaexport.folder import find_model
from aaexport.nn.build import build_network
from aaexport.runners.ort import best_device


def test_the_references_small_network_is_built_from_its_recipe():
    """Its counts by hand: 16-2 augments the stem, twelve convolutions and three shortcuts."""
    from aaexport.nn.augmented import augmented_layers

    network = build_network(find_model(ROOT / "examples/03_measure_attention/aa_wrn16_2_reference").recipe)
    layers = augmented_layers(network)
    assert len(layers) == 1 + 12 + 3
    assert {(layer.out_channels, layer.dk, layer.dv) for layer in layers.values()} == {
        (20, 40, 4),
        (40, 80, 8),
        (80, 160, 16),
        (120, 240, 24),
    }


# Everything on a GPU, in stages


GPU = ROOT / "examples/04_measure_on_gpu"


@pytest.fixture(scope="module")
def gpu():
    """The scripts as modules, by their names."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(GPU))
        yield {
            name: importlib.import_module(name)
            for name in ("plan", "skeleton", "process", "measure", "child", "table")
        }


@pytest.fixture
def weighted(tmp_path, rng):
    """A file with a large weight, a small one, and a large one of zeros and ones."""
    shapes = {"large": (40, 40), "small": (2, 40), "ones": (40, 40)}
    arrays = {name: rng.normal(3.0, 0.5, shape).astype(np.float32) for name, shape in shapes.items()}
    arrays["ones"] = np.eye(40, dtype=np.float32)
    nodes = [helper.make_node("MatMul", ["x", "large"], ["a"]), helper.make_node("MatMul", ["a", "ones"], ["b"])]
    nodes.append(helper.make_node("Add", ["b", "small"], ["y"]))
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [2, 40]) for name in "xy"]
    tensors = [numpy_helper.from_array(array, name) for name, array in arrays.items()]
    graph = helper.make_graph(nodes, "weighted", ends[:1], ends[1:], tensors)
    onnx.save(
        helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8), tmp_path / "w.onnx"
    )
    return tmp_path / "w.onnx"


def test_a_skeleton_is_small_and_comes_back_with_noise_of_the_same_mean_and_spread(gpu, weighted):
    skeleton, back = weighted.with_suffix(".skeleton"), weighted.with_name("back.onnx")
    gpu["skeleton"].packed(weighted, skeleton)
    gpu["skeleton"].unpacked(skeleton, back)
    assert skeleton.stat().st_size < weighted.stat().st_size - 40 * 40 * 4 + 200
    before, after = ({t.name: numpy_helper.to_array(t) for t in onnx.load(path).graph.initializer}
                     for path in (weighted, back))  # fmt: skip
    for name in ("small", "ones"):
        np.testing.assert_array_equal(before[name], after[name])
    assert after["large"].shape == (40, 40)
    assert abs(after["large"].mean() - 3.0) < 0.1
    assert abs(after["large"].std() - 0.5) < 0.1


def test_a_file_comes_back_with_the_batch_that_is_asked_for(gpu, tmp_path):
    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", 4]) for name in "xy")
    graph = helper.make_graph([helper.make_node("Relu", ["x"], ["y"])], "test", [x], [y])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)
    onnx.save(model, tmp_path / "open.onnx")
    gpu["skeleton"].packed(tmp_path / "open.onnx", tmp_path / "skeleton")
    for batch, shape in ((None, ("batch", 4)), (8, (8, 4))):
        gpu["skeleton"].unpacked(tmp_path / "skeleton", tmp_path / "back.onnx", batch)
        assert aaexport.inspect(tmp_path / "back.onnx").graph.inputs[0].shape == shape


@pytest.mark.parametrize("name", ["full", "quick"])
def test_every_ratio_is_of_files_that_are_prepared(gpu, name):
    plan = gpu["plan"].PLANS[name]
    known = {(file.subject, file.side, file.opset) for file in plan.files()}
    ratios = list(plan.ratios())
    assert ratios
    assert {side for _, first, second, _ in ratios for side in (first, second)} <= known
    assert {file.dtype for file in plan.files()} == {"float32", "float16"}
    assert len({file.name for file in plan.files()}) == len(plan.files())


# A child of the tests' own: an order is the Python that it runs.
OBEYS = "import json, sys, time\nfor line in sys.stdin: exec(json.loads(line)[0]); print('DONE', flush=True)"


@pytest.fixture
def child(gpu):
    with gpu["process"].Child(os.environ, (sys.executable, "-c", OBEYS)) as child:
        yield child


def found_by(child, code, seconds=60):
    return list(child.findings([code], seconds))


def test_findings_are_read_as_they_come_and_a_failure_has_its_reason(child):
    code = (
        "print('FOUND {\"ms\": 1.5}', flush=True); print('SdpaKernel=FLASH_ATTENTION'); raise ValueError('no room')"
    )
    reason = {"failed": "ValueError: no room"}
    assert found_by(child, code) == [{"ms": 1.5}, {"attention": {"FLASH_ATTENTION": 1}}, reason]


def test_a_child_that_hangs_has_its_time_and_what_it_found_stays(child):
    code = "print('FOUND {\"ms\": 1.5}', flush=True); time.sleep(60)"
    assert found_by(child, code, 3) == [{"ms": 1.5}, {"failed": "it had 3 s"}]


def test_one_process_takes_order_after_order_and_a_failure_costs_no_other_row(child):
    """What one order leaves behind tells whether the next has the same process."""
    leave, look = "global left; left = 1", "print('FOUND {\"left\": %d}' % ('left' in globals()))"
    assert found_by(child, leave) == []
    assert found_by(child, look) == [{"left": 1}]
    assert found_by(child, "raise SystemExit('no room')") == [{"failed": "no room"}]
    assert found_by(child, look) == [{"left": 0}]
    assert found_by(child, leave) == []
    child.end()
    assert found_by(child, look) == [{"left": 0}]


def test_a_child_that_is_killed_tells_by_what(child):
    (found,) = found_by(child, "import os, signal; os.kill(os.getpid(), signal.SIGSEGV)")
    assert found == {"failed": "the process ended with -11 and said nothing"}


def prepared(folder):
    folder.mkdir(exist_ok=True)
    (folder / "prepared.json").write_text('{"plan": "quick"}')
    return folder


def test_without_a_gpu_a_stage_ends_with_5_and_one_line(gpu, tmp_path, capsys):
    if best_device() == "cuda":
        pytest.skip("CUDA works here")
    asked = ["layers", "--files", str(prepared(tmp_path / "files")), "--out", str(tmp_path / "out")]
    assert gpu["measure"].main(asked) == 5
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("Error: CUDAExecutionProvider ")
    assert not list((tmp_path / "out").glob("*.json"))


def test_without_files_a_stage_says_what_to_run_first(gpu, tmp_path, capsys):
    asked = ["layers", "--files", str(tmp_path), "--out", str(tmp_path / "out"), "--device", "cpu"]
    assert gpu["measure"].main(asked) == 1
    assert "must hold what prepare.py wrote" in capsys.readouterr().err


def test_rows_are_written_one_by_one_and_a_stage_that_is_late_is_not_complete(gpu, tmp_path, monkeypatch):
    seen, out = [], tmp_path / "out"

    def findings(child, order, seconds):
        for number in range(2):
            yield {"cuda_graph": bool(number), "ms": 1.0}
            seen.append(json.loads((out / "layers.json").read_text())["rows"])

    measure = gpu["measure"]
    monkeypatch.setattr(measure.Child, "findings", findings)
    monkeypatch.setattr(measure.Stage, "path", lambda self, file, batch: tmp_path / file.name)
    asked = ["layers", "--files", str(prepared(tmp_path / "files")), "--out", str(out), "--device", "cpu"]
    assert measure.main(asked) == 0
    assert [len(rows) for rows in seen[:3]] == [1, 2, 3]
    assert json.loads((out / "layers.json").read_text())["complete"]
    assert measure.main([*asked, "--limit", "0"]) == 0
    late = json.loads((out / "layers.json").read_text())
    assert (late["complete"], late["rows"]) == (False, [])


def test_a_stage_without_time_unpacks_no_files(gpu, tmp_path):
    """Unpacking takes seconds a file: what is late would take the time of the stages after it."""
    asked = ["--files", str(prepared(tmp_path / "files")), "--out", str(tmp_path / "out"), "--device", "cpu"]
    for stage in ("layers", "networks", "kernels", "parity", "memory"):
        assert gpu["measure"].main([stage, *asked, "--limit", "0"]) == 0  # there is not even a skeleton
        late = json.loads((tmp_path / f"out/{stage}.json").read_text())
        assert (late["complete"], late["rows"]) == (False, [])


def results(gpu, folder, **facts):
    """Two files of a made-up GPU: a ratio in float16 with a graph, and a failure."""
    folder.mkdir(exist_ok=True)
    known = {"hardware": "NVIDIA X100 80GB (PCIe)", "driver": "600", "cuda": "13.0", "device": "cuda", "versions": {}}
    names = {"subject": "layer_8x8", "opset": 20, "dtype": "float16", "batch": 2, "task": "latency", "tf32": False}
    rows = [{**names, "side": side, "cuda_graph": True, "ms": ms} for side, ms in (("naive", 3.0), ("ours", 0.25))]
    for stage, found in {"layers": rows, "parity": [{"task": "parity", "subject": "x", "failed": "no"}]}.items():
        (folder / f"{stage}.json").write_text(json.dumps({**known, **facts, "rows": found}))
    return folder


def test_the_table_has_ratios_failures_and_what_was_not_measured(gpu, tmp_path, capsys):
    table = gpu["table"]
    kept = tmp_path / "kept"
    assert table.main([str(results(gpu, tmp_path / "r")), "--plan", "quick", "--keep", str(kept)]) == 0
    out = capsys.readouterr().out
    row = next(line for line in out.splitlines() if line.startswith("| layer_8x8: naive ÷ ours, batch 2, opset 20"))
    assert row.split(" | ")[-1] == "12.00 (3 ÷ 0.25 ms) |"
    assert row.count("not measured") == 4
    assert "- parity x: no" in out
    assert (kept / "gpu_nvidia_x100_80gb_pcie.json").is_file()


def test_results_of_several_machines_make_no_table(gpu, tmp_path, capsys):
    folder = results(gpu, tmp_path / "r")
    other = json.loads((folder / "layers.json").read_text()) | {"driver": "601"}
    (folder / "layers.json").write_text(json.dumps(other))
    assert gpu["table"].main([str(folder)]) == 1
    assert "got those of several" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--budget", "soon"), "--budget must be whole seconds, got soon"),
        (("--only", "nothing"), "--only must be one of environment layers"),
        (("--fast", "1"), "option must be one of"),
        (("--budget",), "--budget must be followed by a value"),
    ],
)
def test_a_wrong_option_of_the_run_is_one_line(tmp_path, arguments, words):
    command = ["sh", str(GPU / "run.sh"), "--out", str(tmp_path / "out"), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (2, "")
    assert words in done.stderr.splitlines()[-1]


def run_of(environment, out, files, *options):
    command = ["sh", GPU / "run.sh", "--out", out, "--files", files, "--seconds", "0.05", *options]
    environment = {"PYTHON": sys.executable, **environment}
    return subprocess.run(list(map(str, command)), capture_output=True, text=True, check=False, env=environment)


def test_what_the_most_depends_on_is_measured_before_the_rest_of_any_network(gpu):
    """A stage may end before its files do."""
    files = gpu["plan"].FULL.groups()["networks"]
    sides = [(file.side, file.opset) for file in files]
    assert sides == sorted(sides, key=gpu["plan"].FULL.network_sides.index)
    assert {file.subject for file in files if (file.side, file.opset) in sides[:1]} == set(gpu["plan"].FULL.networks)


def cpu_seconds():
    """What all processes that were started and waited for have computed: others' load does not change it much."""
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


@pytest.fixture(scope="module")
def quick(tmp_path_factory):
    """What `prepare.py --quick` writes, and the CPU's seconds for it."""
    files = tmp_path_factory.mktemp("gpu") / "files"
    command = [sys.executable, str(GPU / "prepare.py"), "--quick", "--out", str(files)]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    before = cpu_seconds()
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    assert done.returncode == 0, done.stderr
    return files, cpu_seconds() - before


def of_stage(out, stage):
    return json.loads((out / f"{stage}.json").read_text())


@pytest.mark.slow
def test_all_of_it_runs_on_the_cpu_in_tiny_sizes_and_three_minutes(gpu, quick, tmp_path, capsys):
    (files, seconds), out, before = quick, tmp_path / "out", cpu_seconds()
    done = run_of(os.environ | {"PYTHONPATH": str(ROOT)}, out, files, "--device", "cpu", "--budget", "1200")
    assert done.returncode == 0, done.stdout + done.stderr
    stages = {stage: of_stage(out, stage) for stage in gpu["measure"].STAGES}
    assert [name for name, stage in stages.items() if not stage["complete"]] in ([], ["torch"])
    compiled = {"compile"}  # which takes a C++ compiler, and on a busy machine its time
    failed = [row for stage in stages.values() for row in stage["rows"] if "failed" in row]
    assert [row for row in failed if row.get("side") not in compiled] == []
    assert all(row["apart"] == 0 for row in stages["parity"]["rows"])
    assert seconds + cpu_seconds() - before < 180
    assert {path.suffix for path in out.iterdir()} == {".json", ".log"}  # nothing large is brought back
    assert gpu["table"].main([str(out), "--plan", "quick"]) == 0
    table = capsys.readouterr().out
    assert "naive ÷ ours" in table
    assert "training step" in table


@pytest.mark.slow
def test_on_a_gpu_that_computes_nothing_kernels_graphs_and_settings_are_the_real_ones(
    gpu, quick, tmp_path, fake_cuda
):
    (files, _), out = quick, tmp_path / "out"
    environment = fake_cuda.environment()
    for stage in ("layers", "kernels", "networks", "memory", "torch"):
        done = run_of(environment, out, files, "--only", stage, "--budget", "600")
        assert done.returncode == 0, (out / f"{stage}.log").read_text()
    rows = of_stage(out, "layers")["rows"] + of_stage(out, "networks")["rows"]
    assert [row for row in rows if "failed" in row] == []
    assert {(row["cuda_graph"], row["tf32"]) for row in rows} == {
        (a, b) for a in (True, False) for b in (True, False)
    }
    assert all(row["phases"]["gpu"] is not None for row in rows)
    ours = [row for row in rows if row["side"] in ("ours", "plain")]
    assert all(row["on_cpu"] == [] for row in ours)
    chosen = {}
    for row in of_stage(out, "kernels")["rows"]:
        if "attention" in row:
            chosen.setdefault((row["side"], row["opset"], row["dtype"]), set()).update(row["attention"])
    assert chosen["ours", 23, "float16"] == {"FLASH_ATTENTION"}
    assert chosen["ours", 23, "float32"] == {"EFFICIENT_ATTENTION"}
    assert chosen["unpadded", 23, "float16"] == {"EFFICIENT_ATTENTION"}
    assert all(row["bytes"] > 0 for row in of_stage(out, "memory")["rows"])
    assert all("failed" in row for row in of_stage(out, "torch")["rows"])
