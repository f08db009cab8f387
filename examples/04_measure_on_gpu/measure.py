"""One stage of the measurements on a GPU: every row is written when it is found, and none is another stage's."""

import argparse
import importlib.metadata
import json
import os
import platform
import subprocess
import sys
import time
from pathlib import Path

from plan import OURS, PLAIN, PLANS
from process import Child
from skeleton import unpacked

from aaexport.device import parse_device
from aaexport.errors import AaexportError, DataError
from aaexport.graph.probe import probe_model
from aaexport.load.gpu import read_gpu, why_unreadable
from aaexport.runners.ort import OrtRunner
from aaexport.writing import write_json

HERE = Path(__file__).parent
SCHEMA = "aaexport.gpu-benchmark/2"
PACKAGES = ("aaexport", "torch", "onnx", "onnxruntime-gpu", "onnxruntime", "numpy", "nvidia-cudnn-cu13", "tensorrt")
CHILD_SECONDS = 180.0
TELLS = {"ORT_ENABLE_ATTENTION_KERNEL_DEBUG_INFO": "1"}


def main(arguments=None):
    asked = parsed(arguments)
    try:
        with Child(os.environ | TELLS if asked.stage == "kernels" else os.environ) as children:
            stage = Stage(asked, children)
            STAGES[asked.stage](stage)
        stage.keep(complete=not stage.late)
    except AaexportError as error:
        print(f"Error: {error}", file=sys.stderr)
        return error.exit_code
    print(f"{len(stage.rows)} rows, {sum('failed' in row for row in stage.rows)} of them failed")
    return 0


def parsed(arguments):
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("stage", choices=STAGES)
    parser.add_argument("--files", type=Path, default=HERE / "files", help="what prepare.py wrote")
    parser.add_argument("--out", type=Path, default=HERE / "results", help="the folder for a JSON file of each stage")
    parser.add_argument("--device", default="cuda", help="cuda, cuda:N, or cpu to see that it works")
    parser.add_argument("--seconds", type=float, default=0.5, help="of each figure")
    parser.add_argument("--limit", type=float, default=600.0, help="seconds for the stage: no row begins after it")
    return parser.parse_args(arguments)


class Stage:
    """What a stage has found by now, in `OUT/<stage>.json`."""

    def __init__(self, asked, children):
        self.asked, self.children, self.rows, self.late = asked, children, [], False
        self.ends = time.monotonic() + asked.limit
        prepared = asked.files / "prepared.json"
        if not prepared.is_file():
            raise DataError(f"{asked.files} must hold what prepare.py wrote, but has no prepared.json; run it first")
        self.plan = PLANS[json.loads(prepared.read_text())["plan"]]
        asked.out.mkdir(parents=True, exist_ok=True)
        with OrtRunner(probe_model(), device=asked.device):  # ProviderError, before anything is measured
            pass
        self.facts = {"schema": SCHEMA, "stage": asked.stage, **facts_of(asked.device)}
        self.keep(complete=False)

    def keep(self, *, complete):
        write_json(
            self.asked.out / f"{self.asked.stage}.json", {**self.facts, "complete": complete, "rows": self.rows}
        )

    def path(self, file, batch=None):
        """The whole file, of that batch or of any, made of its skeleton when it is first wanted.

        It stays beside the skeletons: what is brought back from the machine is results alone.
        """
        path = self.asked.files / "whole" / f"{file.name}{'' if batch is None else f'_{batch}'}.onnx"
        if not path.exists() and time.monotonic() < self.ends:  # else no child will ask for it
            path.parent.mkdir(exist_ok=True)
            part = path.with_suffix(".part")  # a stage that is ended meanwhile leaves no half of a file
            unpacked(self.asked.files / f"{file.name}.skeleton", part, batch)
            part.replace(path)
        return path

    def child(self, names, task, *arguments):
        """Rows of that order, each with `names`; one with the reason where it fails, none if it is late."""
        left = self.ends - time.monotonic()
        if left <= 0:
            self.late = True
            return
        for found in self.children.findings((task, *map(str, arguments)), min(left, CHILD_SECONDS)):
            self.rows.append({**names, "task": task, **found})
            self.keep(complete=False)


def facts_of(device):
    """Hardware, driver and versions."""
    kind, index = parse_device(device)
    state = None if kind == "cpu" else read_gpu(index)
    untold = None if kind == "cpu" or state is not None else why_unreadable(index)
    installed = {name: version(name) for name in PACKAGES}
    return {
        "device": device,
        "hardware": platform.processor() or platform.machine() if state is None else state.name,
        "driver": None if state is None else state.driver,
        "cuda": None if state is None else state.cuda,
        "untold": untold,
        "python": platform.python_version(),
        "versions": {name: found for name, found in installed.items() if found is not None},
        "began": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
    }


def version(name):
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


# Stages


def environment(stage):
    """What is there: the facts of every stage, and what nvidia-smi says."""
    try:
        told = subprocess.run(["nvidia-smi"], capture_output=True, text=True, check=True).stdout
    except (OSError, subprocess.CalledProcessError) as error:
        told = f"nvidia-smi does not work: {error}"
    stage.rows.append({"task": "environment", "nvidia_smi": told})


def latencies(stage):
    for file in stage.plan.groups()[stage.asked.stage]:
        for batch in stage.plan.batches(file.subject):
            rest = (stage.path(file, batch), stage.asked.device, batch, stage.asked.seconds)
            stage.child(of(file) | {"batch": batch}, "latency", *rest)


def kernels(stage):
    for file in stage.plan.files():
        batch = max(stage.plan.batches(file.subject))
        stage.child(of(file), "kernels", stage.path(file, batch), stage.asked.device, batch)


def parity(stage):
    for file in stage.plan.files():
        stage.child(of(file), "parity", stage.path(file), stage.asked.device)


def memory(stage):
    for file in stage.plan.files():
        batch = max(stage.plan.batches(file.subject))
        if batch > 1:
            stage.child(of(file), "memory", stage.path(file), stage.asked.device, batch)
            if parse_device(stage.asked.device)[0] == "cpu":
                stage.children.end()  # what a process has freed would hide what the next file takes


def training(stage):
    model, twin, batch = stage.plan.training
    for precision in ("bf16", "fp32"):
        for side, name in ((OURS, model), (PLAIN, twin)):
            names = {"subject": name, "side": side, "dtype": precision, "batch": batch}
            stage.child(names, "step", name, batch, precision, stage.asked.device, stage.asked.seconds)


def torch(stage):
    on_gpu = parse_device(stage.asked.device)[0] == "cuda"
    for model, (ways, batches) in stage.plan.rivals.items():
        for way in ways if on_gpu else (way for way in ways if way != "max-autotune"):
            for precision in ("float16", "float32") if on_gpu else ("float32",):
                for batch in batches:
                    names = {"subject": model, "side": way, "dtype": precision, "batch": batch}
                    rest = (batch, precision, stage.asked.device, stage.asked.seconds)
                    stage.child(names, "rival", model, way, *rest)


def tensorrt(stage):
    for file in stage.plan.groups()["networks"]:
        if file.dtype == "float32" and file.opset == 20 and parse_device(stage.asked.device)[0] == "cuda":
            batches = ",".join(map(str, stage.plan.batches(file.subject)))
            stage.child(of(file), "tensorrt", stage.path(file), stage.asked.device, batches, stage.asked.seconds)


def serving(stage):
    """serve-bench itself: one stream with and without graphs, and a server of two workers."""
    on_gpu = parse_device(stage.asked.device)[0] == "cuda"
    folder, seconds = stage.asked.files / stage.plan.served, f"{6 * stage.asked.seconds}s"
    server = ("--scenario", "server", "--rate", "200", "--max-batch", "8", "--max-delay", "2ms", "--workers", "2")
    runs = {"single-stream": ("--compare", "none"), "server, two workers": (*server, "--compare", "none")}
    if on_gpu:
        runs |= {f"{name}, graphs": (*options, "--cuda-graph") for name, options in runs.items()}
        runs["single-stream, beside PyTorch"] = ("--compare", "eager")
    for name, options in runs.items():
        left = stage.ends - time.monotonic()
        if left <= 0:
            stage.late = True
            return
        command = [
            "-m",
            "aaexport",
            "-q",
            "serve-bench",
            folder,
            "--device",
            stage.asked.device,
            "--duration",
            seconds,
            "--settle",
            f"{10 * stage.asked.seconds}s",
        ]
        done = bounded([sys.executable, *command, *options, "--json"], min(left, CHILD_SECONDS))
        found = {"failed": last_line(done)} if not done.stdout.strip() else {"code": done.returncode, **brief(done)}
        stage.rows.append({"task": "serve-bench", "what": name, **found})
        stage.keep(complete=False)


def bounded(command, seconds):
    command = list(map(str, command))
    try:
        return subprocess.run(command, capture_output=True, text=True, check=False, timeout=seconds)
    except subprocess.TimeoutExpired:
        return subprocess.CompletedProcess(command, 1, "", f"it had {seconds:.0f} s")


def brief(done):
    value = json.loads(done.stdout)
    kept = ("valid", "reasons", "warnings", "notes", "queries", "unanswered", "percentiles", "phases", "throughput")
    return {name: value[name] for name in (*kept, "gpu_load", "check", "settings")}


def last_line(done):
    return (done.stderr.strip().splitlines() or ["no reason given"])[-1]


def of(file):
    return {"subject": file.subject, "side": file.side, "opset": file.opset, "dtype": file.dtype}


# In the order that pays.
STAGES = {
    "environment": environment,
    "layers": latencies,
    "networks": latencies,
    "kernels": kernels,
    "parity": parity,
    "memory": memory,
    "training": training,
    "serving": serving,
    "torch": torch,
    "tensorrt": tensorrt,
}

if __name__ == "__main__":
    sys.exit(main())
