"""Measurements made by hand: one with everything in it, and the others that every format must be able to show."""

import dataclasses

import numpy as np

from aaexport.load.gpu import GpuState
from aaexport.load.gpu_watch import GpuLoad
from aaexport.load.launches import settle_threads
from aaexport.load.machine import Environment
from aaexport.load.measurement import (
    AnswerCheck,
    BenchReport,
    ColdStart,
    Comparison,
    GuardRecord,
    KeptPart,
    Load,
    Loss,
    ModelCard,
    ParityRecord,
    Peak,
    Phases,
    Regression,
    ServiceTimes,
    Throughput,
    Trial,
)
from aaexport.load.run import UNANSWERED, QueryLog
from aaexport.load.statistics import Ratio
from aaexport.parity import Placement
from aaexport.parity.by_layer import LayerLoss

HOSTILE = "a|b `c` <script>alert(1)</script> \"d\" 'e' &amp; \x1b[31m\x00\ud800 [bold]f[/bold]"
STALL = 1003.0  # milliseconds


def log(latencies, *, gap=0.0, delay=0.0, samples=1):
    """A block of queries with these latencies in ms, one after the other, or due every `gap` ms."""
    nanoseconds = np.rint(np.asarray(latencies, float) * 1e6).astype(np.int64)
    if gap:
        scheduled = np.arange(len(nanoseconds), dtype=np.int64) * round(gap * 1e6)
    else:
        scheduled = np.concatenate([[0], np.cumsum(nanoseconds)[:-1]]).astype(np.int64)[: len(nanoseconds)]
    issued = scheduled + round(delay * 1e6)
    return QueryLog(scheduled, issued, scheduled + nanoseconds, np.full(len(nanoseconds), samples, np.int32))


def gamma(count, mean, seed=0):
    """Latencies as they are: most near the mean, some far above."""
    return np.random.default_rng(seed).gamma(30, mean / 30, count)


def lost(block, *queries):
    """The same block, in which these queries have no answer."""
    completed = block.completed.copy()
    completed[list(queries)] = UNANSWERED
    return dataclasses.replace(block, completed=completed)


MACHINE = Environment("AMD EPYC 9354", 2, "Linux-6.1-x86_64", "3.11.2", 0.42, 0.012, 0.034)
CPU = BenchReport(
    model="aa_cnn3_digits",
    onnx_sha256="0123456789abcdef" * 4,
    load=Load("single-stream"),
    label="onnxruntime CPU",
    provider="CPUExecutionProvider",
    threads=None,
    inputs="held-out images",
    blocks=tuple(log(gamma(120, 0.25, seed)) for seed in range(6)),
    cold_start=ColdStart(process=1.91, load=0.041, first_query=0.00123),
    environment=MACHINE,
    tools={"aaexport": "0.1.0", "onnxruntime": "1.31.1", "torch": "2.13.0"},
    throughput=(
        Throughput(1, 1, 3482.0, 0.277, 0.391, 1.1),
        Throughput(8, 1, 6627.0, 1.218, 1.7, 2.4),
        Throughput(32, 1, 7872.0, 3.957, None, 5.0),
        Throughput(1, 4, 5100.0, 0.71, 1.4, None),
        Throughput(8, 4, 7410.0, 4.1, 7.7, None),
    ),
    comparisons=(
        Comparison(
            name="eager",
            label="PyTorch eager cpu float32",
            p50=1.04,
            cold_start=0.00893,
            ratio=Ratio(4.31, 4.0, 6.57, 6, 4.2, 4.9),
            withheld=None,
            blocks=tuple(gamma(60, 1.04, seed) for seed in range(6)),
        ),
        Comparison(
            name="compile",
            label="torch.compile cpu float32",
            p50=0.51,
            cold_start=21.3,
            ratio=Ratio(2.04, 1.9, 2.3, 6, 1.95, 2.21),
            withheld=None,
            blocks=tuple(gamma(60, 0.51, seed) for seed in range(6)),
        ),
    ),
    check=AnswerCheck("PyTorch in float32", 64, 0, 1.2e-6),
    date="2026-01-31T09:30:00Z",
    command="aaexport serve-bench aa_cnn3_digits",
    card=ModelCard(
        {"Conv": 6, "MatMul": 6, "Softmax": 3, "Add": 9},
        20,
        551_204,
        137_210,
        5_600_112,
        ParityRecord(True, 2.9e-6, "2026-01-31T09:12:44Z", True),
    ),
)
LAUNCHES = settle_threads(
    {
        1: [gamma(200, mean, seed) for seed, mean in enumerate((0.187, 0.188, 0.187))],
        2: [gamma(200, mean, seed) for seed, mean in enumerate((0.178, 0.335, 0.337))],
    },
    batch=1,
)
H100 = GpuState("NVIDIA H100 80GB HBM3", "580.65", "13.0", 1980, 1980, 2619, 41, 121.4)


def full():
    """A server run on a GPU with everything that a report can hold, and a stall that nobody may overlook."""
    latencies = gamma(40_000, 4.0)
    latencies[23_456] = STALL
    return BenchReport(
        **{field.name: getattr(CPU, field.name) for field in dataclasses.fields(CPU)}
        | {
            "load": Load("server", 1, "poisson", 800.0, 20.0, 2, 8, 2.0, 7),
            "label": "onnxruntime CUDA",
            "provider": "CUDAExecutionProvider",
            "settings": {"cuda_graph": True, "cudnn_search": "HEURISTIC", "gpu_memory": 2 << 30},
            "threads": 2,
            "launches": LAUNCHES,
            "blocks": (lost(log(latencies, gap=1.25, delay=0.02), 17, 18),),
            "peak": Peak(812.5, 20.0, (Trial(400.0, 6.1, None), Trial(1600.0, 81.0, "p99 above 20 ms"),
                                       Trial(1000.0, None, "the rate was not held"), Trial(812.5, 18.7, None))),
            "regression": Regression("old.json", Ratio(1.02, 0.98, 1.1, 6, 0.99, 1.05), 0.05, False),
            "placement": Placement("CUDAExecutionProvider", {"CUDAExecutionProvider": 90, "CPUExecutionProvider": 1},
                                   ("node_Gather_7",)),
            "phases": Phases(to_device=0.021, submit=0.113, compute=0.524, to_host=0.009, gpu=0.431),
            "throughput": tuple(
                dataclasses.replace(entry, memory=1_200_000_000 + 40_000_000 * entry.batch, energy=0.0312)
                for entry in CPU.throughput
            ),
            "gpu_load": GpuLoad(48, 1875.0, 1755.0, 1980.0, 1755.0, 61, 612.5, {"power": 0.31}, 5_300_000_000),
            "gpu_before": H100,
            "gpu_after": dataclasses.replace(H100, sm_clock=1755, temperature=61, power=655.0, throttled=("power",)),
            "notes": ("compile was left out: no compiler was found",),
            "warnings": ("the GPU was throttled: power; let it cool, or lock its clocks with `nvidia-smi -lgc`",),
        }
    )  # fmt: skip


FULL = full()
MINIMAL = dataclasses.replace(CPU, throughput=(), comparisons=(), check=None)
INVALID = dataclasses.replace(
    CPU,
    blocks=(log(gamma(30, 0.25)),),
    comparisons=tuple(
        dataclasses.replace(other, ratio=None, p50=None, withheld="other processes took 61% of the CPU; stop them")
        for other in CPU.comparisons
    ),
    check=AnswerCheck("PyTorch in float32", 64, 3, float("nan")),
    regression=Regression("old.json", Ratio(1.31, 1.2, 1.4, 6, 1.22, 1.39), 0.05, True),
    reasons=("44 queries must be counted, got 30; measure longer with --duration", "3 of 64 answers are wrong"),
)
DISTURBED = dataclasses.replace(
    CPU,
    comparisons=(
        dataclasses.replace(
            CPU.comparisons[0], ratio=None, withheld="other processes took 61% of the CPU; stop them"
        ),
        dataclasses.replace(CPU.comparisons[1], ratio=None, p50=None, withheld="too few queries", same_answers=False),
    ),
    warnings=("other processes took 61% of the CPU; stop them",),
)
INTERRUPTED = dataclasses.replace(CPU, blocks=CPU.blocks[:2], throughput=CPU.throughput[:1], complete=False)
NOTHING = dataclasses.replace(MINIMAL, blocks=(), reasons=("no query was answered",))
OFFLINE = dataclasses.replace(
    MINIMAL, load=Load("offline", samples_per_query=4096), blocks=(log([812.0], samples=4096),)
)
SERVICE = ServiceTimes(
    ("http://127.0.0.1:8000",), "triton 2.51.0", "aa_cnn3_digits", ("1",), 32, 1, 0.21, 0.34,
    0.62, 0.31, 0.31, 0.02, 0.01, 0.25, 0.01, 1.4,
)  # fmt: skip
REMOTE = dataclasses.replace(
    CPU, label="triton 2.51.0 over HTTP at 127.0.0.1:8000", provider="service", service=SERVICE
)
INT8 = dataclasses.replace(
    CPU,
    command="aaexport serve-bench aa_cnn3_digits --dtype int8 --compare float32,onnx:other.onnx,eager",
    comparisons=(
        dataclasses.replace(
            CPU.comparisons[1],
            name="float32",
            label="float32 file, onnxruntime CPU",
            loss=Loss("float32", "PyTorch eager cpu float32", 64, 128.4, 1.0, None, 0.9916, 359),
        ),
        dataclasses.replace(
            CPU.comparisons[1],
            name="onnx:other.onnx",
            label="other.onnx, onnxruntime CPU",
            same_answers=None,
            loss=Loss("quantized", "PyTorch eager cpu float32", 64, 17.4, 0.984),
        ),
        dataclasses.replace(
            CPU.comparisons[1],
            name="float16",
            label="float16 file, onnxruntime CPU",
            same_answers=False,
            loss=Loss("float16", "PyTorch eager cpu float32", 64, -np.inf, None, within=False),
        ),
        dataclasses.replace(CPU.comparisons[0], loss=None),
    ),
    check=AnswerCheck("the file's own, in small batches", 64, 0, 0.0),
    loss=Loss("int8", "PyTorch eager cpu float32", 64, 36.5, 1.0, True, 0.9889, 359),
    card=ModelCard(
        {"QuantizeLinear": 15, "DequantizeLinear": 30, "Conv": 9},
        20,
        351_204,
        23_210,
        5_600_112,
        ParityRecord(True, None, "2026-01-31T09:12:44Z", True),
        "int8",
        GuardRecord(
            "int8", "359 held-out images of digits", 36.5, 359, 356, 355,
            (LayerLoss("stages.0", 42.1, 38.0), LayerLoss("stages.1.qkv", 40.3, None),
             LayerLoss("stages.2", 41.7, 33.9)),
        ),
        (KeptPart("stages.1.attention", "it cost most"), KeptPart("node_Gemm_1", "it was asked to stay in float32")),
    ),
)  # fmt: skip
NAMED = dataclasses.replace(
    FULL,
    model=HOSTILE,
    command=HOSTILE,
    card=ModelCard({HOSTILE: 1}, 20, 1, 1, None, ParityRecord(False, None, HOSTILE, True), "int8",
                   GuardRecord("int8", HOSTILE, None, layers=(LayerLoss(HOSTILE, 1.0, None),)),
                   (KeptPart(HOSTILE, HOSTILE),)),
    loss=Loss("int8", HOSTILE, 1, None, None),
    label=HOSTILE,
    provider=HOSTILE,
    inputs=HOSTILE,
    settings={HOSTILE: HOSTILE},
    tools={HOSTILE: HOSTILE},
    environment=dataclasses.replace(MACHINE, cpu=HOSTILE, system=HOSTILE),
    comparisons=tuple(dataclasses.replace(other, name=HOSTILE, label=HOSTILE) for other in CPU.comparisons),
    check=AnswerCheck(HOSTILE, 64, 0, 1e-6),
    launches=dataclasses.replace(LAUNCHES, named=None, withheld=HOSTILE),
    peak=Peak(None, 20.0, (Trial(400.0, 6.1, HOSTILE),)),
    regression=Regression(HOSTILE, Ratio(1.0, 1.0, 1.0, 1), 0.05, False, HOSTILE),
    gpu_before=dataclasses.replace(H100, name=HOSTILE, driver=HOSTILE, throttled=(HOSTILE,)),
    placement=Placement(HOSTILE, {HOSTILE: 1}, (HOSTILE,)),
    service=dataclasses.replace(SERVICE, urls=(HOSTILE,), server=HOSTILE, model=HOSTILE, versions=(HOSTILE,)),
    notes=(HOSTILE,),
    warnings=(HOSTILE,),
    reasons=(HOSTILE,),
)  # fmt: skip
REPORTS = {"full": FULL, "cpu": CPU, "minimal": MINIMAL, "invalid": INVALID, "disturbed": DISTURBED,
           "interrupted": INTERRUPTED, "nothing": NOTHING, "offline": OFFLINE, "remote": REMOTE, "int8": INT8,
           "hostile": NAMED}  # fmt: skip
