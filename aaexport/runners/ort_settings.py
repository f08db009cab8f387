"""How an onnxruntime session runs, as a value: what can be set → the runtime's own options. Needs no onnxruntime."""

from __future__ import annotations

from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Literal, get_args

from aaexport.device import parse_device
from aaexport.errors import ArgumentError, broken_rule, parameter

CudnnSearch = Literal["EXHAUSTIVE", "HEURISTIC", "DEFAULT"]

PROVIDERS = {
    "cpu": "CPUExecutionProvider",
    "cuda": "CUDAExecutionProvider",
    "tensorrt": "TensorrtExecutionProvider",
}
# A processor computes float32 exactly whatever `tf32` says, so that is not among them.
ON_CUDA = (
    "cuda_graph", "nhwc", "cudnn_search", "gpu_memory", "copy_streams", "one_stream", "resident", "pinned",
    "tensorrt",
)  # fmt: skip


@dataclass(frozen=True)
class SessionSettings:
    """Every default is onnxruntime's own.

    Attributes:
        threads: intra-op threads; None for as many as `default_threads` says, or onnxruntime's default, the physical
            cores, where the process may use all of them.
        optimize: False switches onnxruntime's own graph optimizations off.
        arena: whether memory is planned ahead and kept for the next tensor and query; otherwise each gives it back.
        spinning: whether an idle thread waits busily for its next work.
        iobinding: whether `OrtRunner.serving` answers through buffers that were allocated beforehand; None for
            where something else asks for them (`binds`).
        tf32: on CUDA, whether float32 products may be computed in TF32; False for exact ones.
        cuda_graph: a query's work is recorded once and then launched as a whole; through bound buffers, because they
            must keep their place.
        graph_sizes: the batch sizes for which graphs are recorded; a batch between two of them is filled up. None
            records one for every size that comes.
        resident: a query's input lies on the device before it is asked, and its answer stays there.
        pinned: on the host, queries and answers lie in memory that is locked, from which a device copies faster.
        nhwc: prefers kernels for channels-last, and transposes where it must.
        cudnn_search: how cuDNN picks the algorithm of a convolution, at the first run of each shape.
        gpu_memory: bytes that the CUDA provider's arena may take, TensorRT's engines aside; None for no limit.
        copy_streams: copies in streams of their own; onnxruntime warns of data races in some models (its issue 4829).
        one_stream: all threads share one CUDA stream rather than having one each.
        tensorrt: gives TensorRT what it takes; the rest is the CUDA provider's.
        tensorrt_fp16: lets TensorRT compute in float16 where that is faster.
        profiles: the least, the usual and the largest shapes that TensorRT builds one engine for, each in its own
            notation, as `x:1x3x32x32,y:1x8`; None builds engines as shapes come.
        engine_cache: a folder where TensorRT's engines and timings are kept for the next session.
        exact_sums: on x86 without VNNI, whether products with signed weights of 8 bits are added up in 32 bits, as
            everything else adds them; onnxruntime's own is 16, where they may saturate, and is faster.

    Raises:
        ArgumentError: a value is out of its range, or two contradict each other.
    """

    threads: int | None = None
    optimize: bool = True
    arena: bool = True
    spinning: bool = True
    iobinding: bool | None = None
    tf32: bool = True
    cuda_graph: bool = False
    graph_sizes: tuple[int, ...] | None = None
    resident: bool = False
    pinned: bool = False
    nhwc: bool = False
    cudnn_search: CudnnSearch = "EXHAUSTIVE"
    gpu_memory: int | None = None
    copy_streams: bool = False
    one_stream: bool = False
    tensorrt: bool = False
    tensorrt_fp16: bool = False
    profiles: tuple[str, str, str] | None = None
    engine_cache: Path | None = None
    exact_sums: bool = False

    def __post_init__(self) -> None:
        for name in ("threads", "gpu_memory"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ArgumentError(broken_rule(name, "be positive", value))
        if self.cudnn_search not in get_args(CudnnSearch):
            rule = f"be one of {', '.join(get_args(CudnnSearch))}"
            raise ArgumentError(broken_rule("cudnn_search", rule, self.cudnn_search))
        for name in ("cuda_graph", "resident", "pinned"):
            if getattr(self, name) and self.iobinding is False:
                raise ArgumentError(broken_rule("iobinding", f"be on with {parameter(name)}", "off"))
        for name, needed in (
            ("graph_sizes", "cuda_graph"),
            ("engine_cache", "tensorrt"),
            ("tensorrt_fp16", "tensorrt"),
            ("profiles", "tensorrt"),
        ):
            if getattr(self, name) and not getattr(self, needed):
                raise ArgumentError(broken_rule(needed, f"be on with {parameter(name)}", "off"))
        if min(self.graph_sizes or (1,)) < 1:
            raise ArgumentError(broken_rule("graph_sizes", "be numbers ≥ 1", self.graph_sizes))
        if self.tensorrt and not self.tf32:
            remedy = "onnxruntime cannot tell TensorRT: set NVIDIA_TF32_OVERRIDE=0 instead"
            raise ArgumentError(broken_rule("tf32", f"be on with {parameter('tensorrt')}", "off", remedy))

    @property
    def binds(self) -> bool:
        """Whether queries go through bound buffers, as asked for or because something else needs them."""
        return bool(self.iobinding or self.cuda_graph or self.resident or self.pinned)

    def check(self, device: str) -> None:
        """ArgumentError if something is set that the device does not have."""
        if parse_device(device)[0] == "cpu":
            for name in (name for name in ON_CUDA if name in self.described()):
                raise ArgumentError(broken_rule("device", f"be cuda for {parameter(name)}", device))

    def described(self) -> dict[str, Any]:
        """What differs from onnxruntime's defaults, in JSON's types."""
        different = {f.name: getattr(self, f.name) for f in fields(self) if getattr(self, f.name) != f.default}
        return {name: _plain(value) for name, value in different.items()}

    def session_entries(self) -> dict[str, str]:
        """Of the session's configuration, by onnxruntime's keys."""
        spinning = {} if self.spinning else {"session.intra_op.allow_spinning": "0"}
        return spinning | ({"session.x64quantprecision": "1"} if self.exact_sums else {})

    def provider_on(self, device: str) -> str:
        """The execution provider that must become active."""
        return PROVIDERS["tensorrt" if self.tensorrt else parse_device(device)[0]]

    def providers_on(self, device: str, stream: int | None = None) -> list[tuple[str, dict[str, Any]]]:
        """Execution providers in their order of precedence, each with its options; CUDA's works in `stream`."""
        kind, index = parse_device(device)
        providers: list[tuple[str, dict[str, Any]]] = [(PROVIDERS["cpu"], {})]
        if kind == "cuda":
            of_stream = {} if stream is None else {"user_compute_stream": str(stream)}
            providers.insert(0, (PROVIDERS["cuda"], {"device_id": index, **self._of_cuda(), **of_stream}))
        if self.tensorrt:
            providers.insert(0, (PROVIDERS["tensorrt"], {"device_id": index, **self._of_tensorrt()}))
        return providers

    def _of_cuda(self) -> dict[str, Any]:
        options: dict[str, Any] = {"use_tf32": int(self.tf32), "cudnn_conv_algo_search": self.cudnn_search}
        if self.gpu_memory is not None:
            options["gpu_mem_limit"] = int(self.gpu_memory)  # onnxruntime refuses what has a point in it
        if self.copy_streams:
            options["do_copy_in_default_stream"] = 0
        asked = {
            "prefer_nhwc": self.nhwc,
            "use_ep_level_unified_stream": self.one_stream,
            "enable_cuda_graph": self.cuda_graph and not self.tensorrt,  # one provider records, the first
        }
        return options | {name: 1 for name, wanted in asked.items() if wanted}

    def _of_tensorrt(self) -> dict[str, Any]:
        asked = {"trt_cuda_graph_enable": self.cuda_graph, "trt_fp16_enable": self.tensorrt_fp16}
        options: dict[str, Any] = {name: 1 for name, wanted in asked.items() if wanted}
        for place, shapes in zip(("min", "opt", "max"), self.profiles or (), strict=False):
            options[f"trt_profile_{place}_shapes"] = shapes
        if self.engine_cache is not None:
            for kept in ("engine", "timing"):
                options |= {f"trt_{kept}_cache_enable": 1, f"trt_{kept}_cache_path": str(self.engine_cache)}
        return options


def _plain(value: Any) -> Any:
    """As JSON has it."""
    return str(value) if isinstance(value, Path) else list(value) if isinstance(value, tuple) else value


DEFAULTS = SessionSettings()
AS_WRITTEN = SessionSettings(optimize=False)
EXACT = SessionSettings(tf32=False)
EXACT_SUMS = SessionSettings(exact_sums=True)
OPTIMIZED, UNOPTIMIZED = "onnxruntime CPU", "onnxruntime CPU, unoptimized"  # DEFAULTS and AS_WRITTEN, in reports
SUMMED_EXACTLY = "onnxruntime CPU, sums in 32 bits"  # EXACT_SUMS
