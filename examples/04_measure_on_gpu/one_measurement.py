"""One measurement on one device, in a process of its own: latency, memory, a training step, the kernels that ran."""

import json
import re
from collections import Counter
from pathlib import Path

import measure
import numpy as np
import onnxruntime
import torch
from torch.profiler import ProfilerActivity, profile

from aaexport.device import parse_device
from aaexport.errors import ProviderError
from aaexport.load.memory import peak_memory
from aaexport.runners.ort import PROVIDERS

TELLING = re.compile(r"attention|flash|fmha|sdpa|scaled_dot_product|softmax", re.IGNORECASE)


def built(side, name):
    """(module, shape of one image) of a layer, of the convolution that it stands for, or of a network."""
    if not isinstance(name, int):
        return measure.network(side, name)
    module = torch.nn.Conv2d(64, 128, 3, padding=1) if side == "plain" else measure.layer(side, name)
    return module, (64, name, name)


def latency(path, device, graph, seconds):
    """The median in milliseconds, inputs and outputs staying on the device; leaves an answer beside the file."""
    session, binding = bound(path, device, graph=graph == "on")
    answer = binding.get_outputs
    milliseconds = measure.median_of(lambda: queried(session, binding), float(seconds))
    np.save(Path(path).with_suffix(".npy"), answer()[0].numpy())
    return milliseconds


def memory(path, device):
    """Bytes that the first queries took: of the process at its peak, or of the whole GPU."""
    session, binding = bound(path, device)

    def queries():
        for _ in range(3):
            queried(session, binding)

    kind, index = parse_device(device)
    if kind == "cpu":
        return peak_memory(queries)
    before, _ = torch.cuda.mem_get_info(index)
    queries()
    return before - torch.cuda.mem_get_info(index)[0]


def step(side, name, batch, precision, device, seconds):
    """Forward and backward pass, the median in milliseconds."""
    once = training_step(side, name, batch, precision, device)
    return measure.median_of(once, float(seconds))


def nodes(path, device):
    """On which provider each operator ran, and the names of the kernels that have to do with attention."""
    session, binding = bound(path, device, tell=True)
    names = kernels_of(lambda: queried(session, binding), device)
    record = Path(session.end_profiling())
    events = [event for event in json.loads(record.read_text()) if event.get("cat") == "Node"]
    record.unlink()
    ran = {e["name"]: (e["args"]["provider"], e["args"]["op_name"]) for e in events if "provider" in e["args"]}
    by_provider = {}
    for provider, operator in ran.values():
        by_provider.setdefault(provider, Counter())[operator] += 1
    return {**{provider: dict(count.most_common()) for provider, count in by_provider.items()}, "kernels": names}


def sdpa(size, batch, precision, device):
    """torch's own operators and kernels of attention in a training step."""
    return {"kernels": kernels_of(training_step("ours", size, batch, precision, device), device)}


def training_step(side, name, batch, precision, device):
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    module, shape = built(side, int(name) if name.isdecimal() else name)
    module = module.to(device).train()
    images = torch.randn(int(batch), *shape, device=device, requires_grad=True)
    kind = torch.device(device).type

    def once():
        module.zero_grad()
        with torch.autocast(kind, dtype=torch.bfloat16, enabled=precision == "bf16"):
            out = module(images)
        out.float().sum().backward()
        if kind == "cuda":
            torch.cuda.synchronize()

    return once


def kernels_of(action, device):
    """Names that have to do with attention among what torch's profiler sees; on CUDA it sees onnxruntime's too."""
    action()
    seen = [ProfilerActivity.CPU] + ([ProfilerActivity.CUDA] if device != "cpu" else [])
    with profile(activities=seen) as profiled:
        action()
    return {event.key: event.count for event in profiled.key_averages() if TELLING.search(event.key)}


def bound(path, device, *, graph=False, tell=False):
    """A session with its input and its outputs on the device, float32 products in float32."""
    kind, index = parse_device(device)
    options = onnxruntime.SessionOptions()
    if tell:
        onnxruntime.set_default_logger_severity(0)
        options.log_severity_level = 0
        options.enable_profiling = True
        options.profile_file_prefix = str(Path(path).with_suffix(""))
    cuda = {"device_id": index, "use_tf32": 0, "enable_cuda_graph": int(graph)}
    cuda |= {"arena_extend_strategy": "kSameAsRequested"}
    if kind == "cuda":
        onnxruntime.preload_dlls()
    session = onnxruntime.InferenceSession(
        path, options, providers=[(PROVIDERS[kind], cuda if kind == "cuda" else {})]
    )
    if session.get_providers()[0] != PROVIDERS[kind]:
        raise ProviderError(f"{PROVIDERS[kind]} did not become active")
    session.disable_fallback()
    binding, rng = session.io_binding(), np.random.default_rng(0)
    for port in session.get_inputs():
        images = rng.standard_normal(port.shape, dtype=np.float32).astype(element(port))
        binding.bind_ortvalue_input(port.name, onnxruntime.OrtValue.ortvalue_from_numpy(images, kind, index))
    for port in session.get_outputs():
        room = onnxruntime.OrtValue.ortvalue_from_shape_and_type(port.shape, element(port), kind, index)
        binding.bind_ortvalue_output(port.name, room)
    return session, binding


def element(port):
    return {"tensor(float)": np.float32, "tensor(float16)": np.float16}[port.type]


def queried(session, binding):
    session.run_with_iobinding(binding)
    binding.synchronize_outputs()


CHILDREN = {"latency": latency, "memory": memory, "step": step, "nodes": nodes, "sdpa": sdpa}
