"""Orders, a line of JSON each → each finding, a line of JSON as soon as it is found."""

import json
import statistics
import sys
import time
from pathlib import Path

import numpy as np
from process import DONE, FOUND

from aaexport.device import parse_device
from aaexport.errors import AaexportError
from aaexport.runners.ort import OrtRunner
from aaexport.runners.ort_settings import PROVIDERS, SessionSettings

PHASES = 20  # queries


def main():
    """An order a line: a task and its arguments. A failure ends the process, with the reason as its last line."""
    for line in sys.stdin:
        task, *arguments = json.loads(line)
        try:
            for found in TASKS[task](*arguments):
                print(f"{FOUND}{json.dumps(found)}", flush=True)
        except AaexportError as error:
            sys.exit(str(error))
        print(DONE, flush=True)


def latency(path, device, batch, seconds):
    """Of the run alone, its buffers on the device, with and without a graph and TF32."""
    for settings in ways(device, Path(path)):
        yield {**settings, **timed_run(path, device, int(batch), settings, float(seconds))}


def ways(device, path):
    """The settings that make sense there."""
    if parse_device(device)[0] == "cpu":
        return [{"cuda_graph": False, "tf32": False}]
    precisions = (False,) if "float16" in path.name else (True, False)
    return [{"cuda_graph": graph, "tf32": tf32} for tf32 in precisions for graph in (True, False)]


def timed_run(path, device, batch, settings, seconds):
    """The median in ms once it is warm, and what else can be told of it."""
    on_gpu = parse_device(device)[0] == "cuda"
    chosen = SessionSettings(iobinding=True, **settings) if on_gpu else SessionSettings(iobinding=True)
    began = time.perf_counter()
    with OrtRunner(Path(path), chosen, device=device, record_placement=on_gpu) as runner:
        loaded = time.perf_counter()
        feeds = images(runner, batch)
        bound = runner.bound(feeds)
        ready = time.perf_counter()
        times_of(bound.run, seconds / 2)
        times = times_of(bound.run, seconds)
        found = {
            "ms": statistics.median(times),
            "low": float(np.quantile(times, 0.1)),
            "high": float(np.quantile(times, 0.9)),
            "runs": len(times),
            "load_s": loaded - began,
            "first_s": ready - loaded,
        }
        if on_gpu:
            phases = runner.phases_of(bound, feeds, PHASES)
            found |= {"phases": phases.medians(), "untimed": phases.untimed}
            found["on_cpu"] = [n for provider, nodes in (runner.placement or {}).items()
                               if provider == PROVIDERS["cpu"] for n in nodes]  # fmt: skip
        bound.release()
    return found


def times_of(action, seconds):
    times, end = [], time.perf_counter() + seconds
    while time.perf_counter() < end or len(times) < 5:
        began = time.perf_counter()
        action()
        times.append((time.perf_counter() - began) * 1000)
    return times


def images(runner, batch):
    return noise({port.name: ((batch, *port.shape[1:]), port.dtype) for port in runner.inputs})


def noise(wanted):
    """Name → (shape, type) as arrays."""
    random = np.random.default_rng(0)
    return {name: random.standard_normal(shape, np.float32).astype(kind) for name, (shape, kind) in wanted.items()}


def parity(path, device):
    """What the device answers beside the CPU, for one image: the largest difference by the largest number."""
    with OrtRunner(Path(path)) as here:
        feeds = images(here, 1)
        expected = here.infer(feeds)
    exact = (False,) if parse_device(device)[0] == "cpu" or "float16" in path else (False, True)
    for tf32 in exact:
        with OrtRunner(Path(path), SessionSettings(tf32=tf32), device=device) as there:
            answers = there.infer(feeds)
        apart = [difference(answers[name], expected[name]) for name in expected]
        worst = max(apart) if all(map(np.isfinite, apart)) else None
        yield {"tf32": tf32, "apart": worst, "finite": worst is not None}


def difference(one, other):
    one, other = one.astype(np.float64), other.astype(np.float64)
    return float(np.abs(one - other).max() / max(np.abs(other).max(), 1e-6))


def memory(path, device, batch):
    """Bytes that a session holds for a batch beyond what it holds for one image, which has all the workspaces."""
    import onnxruntime

    kind, index = parse_device(device)
    if kind == "cpu":
        from aaexport.load.memory import peak_memory

        with OrtRunner(Path(path)) as runner:
            runner.infer(images(runner, 1))
            yield {"batch": int(batch), "bytes": peak_memory(lambda: runner.infer(images(runner, int(batch))))}
        return
    from aaexport.graph.probe import probe_model
    from aaexport.runners.cuda_runtime import CudaRuntime

    with OrtRunner(probe_model(), device=device):  # what CUDA needs is loaded with it
        runtime = CudaRuntime(index)
    # An arena that grows by powers of two would round the figure.
    exactly = {"device_id": index, "arena_extend_strategy": "kSameAsRequested"}
    session = onnxruntime.InferenceSession(path, providers=[(PROVIDERS["cuda"], exactly)], enable_fallback=0)
    kinds = {"tensor(float)": np.float32, "tensor(float16)": np.float16}
    one, many = (
        noise({port.name: ((size, *port.shape[1:]), kinds[port.type]) for port in session.get_inputs()})
        for size in (1, int(batch))
    )
    session.run(None, one)
    before = runtime.free_memory()
    session.run(None, many)
    yield {"batch": int(batch), "bytes": before - runtime.free_memory()}


def kernels(path, device, batch):
    """Where the nodes ran; which kernels computed attention, onnxruntime itself writes beside it."""
    with OrtRunner(Path(path), device=device, record_placement=True) as runner:
        runner.infer(images(runner, int(batch)))
        yield {"nodes": {provider: len(nodes) for provider, nodes in (runner.placement or {}).items()}}


def step(model, batch, precision, device, seconds):
    """Forward and backward pass of a network in ms; bf16 is torch's autocast."""
    import torch

    from aaexport.folder import find_model
    from aaexport.nn.build import build_network

    recipe = find_model(model).recipe
    torch.manual_seed(0)
    module = build_network(recipe).to(device).train()
    given = torch.randn(int(batch), *recipe.input.shape, device=device)
    kind = torch.device(device).type

    def once():
        module.zero_grad()
        with torch.autocast(kind, torch.bfloat16, enabled=precision == "bf16"):
            out = module(given)
        out.float().sum().backward()
        if kind == "cuda":
            torch.cuda.synchronize()

    yield {"ms": settled(once, float(seconds))}


def rival(model, way, batch, precision, device, seconds):
    """PyTorch in the file's place, its images on the device: `eager`, `compile` or `max-autotune`."""
    import torch

    from aaexport.folder import find_model
    from aaexport.nn.build import build_network

    recipe = find_model(model).recipe
    torch.manual_seed(0)
    half = torch.float16 if precision == "float16" else torch.float32
    module = build_network(recipe).to(device, half).eval()
    given = torch.randn(int(batch), *recipe.input.shape, device=device, dtype=half)
    modes = {"compile": None, "max-autotune": "max-autotune"}
    run = torch.compile(module, mode=modes[way]) if way in modes else module

    @torch.inference_mode()
    def once():
        run(given)
        if torch.device(device).type == "cuda":
            torch.cuda.synchronize()

    yield {"ms": settled(once, float(seconds))}


def settled(once, seconds):
    times_of(once, seconds / 2)
    return statistics.median(times_of(once, seconds))


def tensorrt(path, device, batches, seconds):
    """The file by TensorRT in float16, with one engine for all batches."""
    import tempfile

    sizes = sorted({1, *map(int, batches.split(","))})
    with OrtRunner(Path(path)) as here:
        shapes = {port.name: port.shape[1:] for port in here.inputs}
    profiles = tuple(
        ",".join(f"{name}:{'x'.join(map(str, (size, *shape)))}" for name, shape in shapes.items())
        for size in (sizes[0], sizes[-1], sizes[-1])
    )
    with tempfile.TemporaryDirectory() as cache:
        chosen = SessionSettings(
            iobinding=True, tensorrt=True, tensorrt_fp16=True, profiles=profiles, engine_cache=Path(cache)
        )
        for batch in sizes:
            began = time.perf_counter()
            with OrtRunner(Path(path), chosen, device=device) as runner:
                built = time.perf_counter() - began
                bound = runner.bound(images(runner, batch))
                yield {"batch": batch, "load_s": built, "ms": settled(bound.run, float(seconds))}


TASKS = {
    "latency": latency, "parity": parity, "memory": memory, "kernels": kernels, "step": step, "rival": rival,
    "tensorrt": tensorrt,
}  # fmt: skip

if __name__ == "__main__":
    main()
