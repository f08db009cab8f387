"""All that is known of Triton: where its server lies, what it needs to run, and what it is told on its command line.

It comes from the nvidia-pytriton wheel, whose Python package is never imported, or from PATH, as in NVIDIA's
container. Its Python backend embeds the Python that runs here: that one must be a shared library.
"""

from __future__ import annotations

import importlib.metadata
import os
import re
import shutil
import site
import subprocess
import sys
import sysconfig
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from aaexport.errors import EngineError, broken_rule, first_line

WHEEL, TESTED = "nvidia-pytriton", "0.7.0"
INSTALL = f"pip install --no-deps {WHEEL}=={TESTED}"
STUB = "triton_python_backend_stub"
LEAST_VERSION = (2, 40)  # of the server: the first whose command line has the flags below
# What others than this process are not to call, by the names of HTTP and of gRPC, which are the same.
RESTRICTED = ("model-repository", "shared-memory", "trace", "logging")
SHARED_MEMORY = 2**22  # bytes that each process of the Python backend begins with
MOST_BYTES = "http-max-input-size"  # a flag of newer servers
MOST_OF_GRPC = "2 GiB"  # that Triton tells its gRPC library, the most that protobuf has; no flag changes it
# The configurations say all: without this each model's process is started twice, once to be asked what is missing.
AS_WRITTEN = "--disable-auto-complete-config"
# Seconds from SIGTERM on after which it cuts queries off that are still at work; it waits as long for connections
# that clients keep and do not use. Of our own backend we know when nothing is at work any more, and end it then.
EXIT_SECONDS = {"python": 90, "onnxruntime": 30}
# What a server may need of what it is started with; whatever else is there, such as tokens and passwords, is not its.
PASSED = (
    *("HOME", "USER", "LOGNAME", "LANG", "LANGUAGE", "TZ", "TMPDIR", "TEMP", "TMP", "PATH", "LD_LIBRARY_PATH"),
    *(
        "LD_PRELOAD",
        "PYTHONPATH",
        "PYTHONHOME",
        "PYTHONUSERBASE",
        "PYTHONNOUSERSITE",
        "PYTHONHASHSEED",
        "VIRTUAL_ENV",
    ),
    *("CONDA_PREFIX", "GLIBC_TUNABLES", "XDG_CACHE_HOME", "XDG_RUNTIME_DIR"),
)
PASSED_BEGINNINGS = (
    *("LC_", "OMP_", "GOMP_", "KMP_", "MKL_", "OPENBLAS_", "MALLOC_", "ORT_", "TF32_", "TRITON", "TENSORRT_"),
    *("CUDA_", "CUDNN_", "CUBLAS_", "NVIDIA_"),
)
SECRETS = re.compile(r"TOKEN|SECRET|PASSWORD|CREDENTIAL|AUTHORIZATION|API_?KEY", re.IGNORECASE)
FLAG = re.compile(r"--[a-z][a-z0-9-]+")


@dataclass(frozen=True)
class Engine:
    """A tritonserver that can run here.

    Attributes:
        binary: the server.
        backends: the folder of its backends; None for the one that it knows itself.
        stub: what the Python backend starts, where it has to be put beside that backend; None where it lies there.
        backend: what runs ONNX files: `python` in a process of ours, `onnxruntime` where the server has it.
        version: of the server; "" if it does not tell before it runs.
        libraries: folders for the dynamic loader.
        bounds_requests: whether it can be told how many bytes a request may have over REST.
    """

    binary: Path
    backends: Path | None
    stub: Path | None
    backend: Literal["python", "onnxruntime"]
    version: str
    libraries: tuple[Path, ...] = ()
    bounds_requests: bool = False

    def prepared(self, scratch: Path) -> Path | None:
        """The folder of backends, made in `scratch` where the wheel's is not whole as it lies."""
        if self.stub is None or self.backends is None:
            return self.backends
        home = scratch / "backends"
        python = home / "python"
        python.mkdir(parents=True)
        for file in (*(self.backends / "python").iterdir(), self.stub):
            (python / file.name).symlink_to(file)
        return home

    def environment(self, given: Mapping[str, str]) -> dict[str, str]:
        """The server's: what it may need of this process's, with libraries and packages of this Python first."""
        libraries = [*map(str, self.libraries), *_parts(given.get("LD_LIBRARY_PATH"))]
        packages = [*_package_folders(), *_parts(given.get("PYTHONPATH"))]
        own = {
            "LD_LIBRARY_PATH": os.pathsep.join(libraries),
            "PYTHONPATH": os.pathsep.join(packages),
            "PATH": os.pathsep.join([str(Path(sys.executable).parent), *_parts(given.get("PATH"))]),
            "OMP_NUM_THREADS": given.get("OMP_NUM_THREADS", "1"),  # NumPy's; onnxruntime has threads of its own
            "PYTHONDONTWRITEBYTECODE": "1",  # a repository may lie where nothing can be written
        }
        return {name: value for name, value in given.items() if _is_passed(name)} | own


@dataclass(frozen=True)
class Ports:
    """Where a service listens."""

    http: int
    grpc: int
    metrics: int


def command_line(
    engine: Engine,
    repository: Path,
    backends: Path | None,
    host: str,
    ports: Ports,
    secret: str,
    most_bytes: int,
) -> list[str]:
    """What the server is started with.

    It listens on `host` only. Loading models, shared memory, traces and logs are for those who send
    `secret`. Images of a request are bounded by the models' batches; its bytes by `most_bytes` over REST where the
    server can, and else not: that is then for a proxy before it.
    """
    # Each library has a way of its own to write an address of IPv6.
    http, grpc = (f"ipv6:{host}", f"[{host}]") if ":" in host else (host, host)
    flags = {
        "model-repository": str(repository),
        "model-control-mode": "explicit",
        "http-address": http,
        "grpc-address": grpc,
        "metrics-address": http,
        "http-port": str(ports.http),
        "grpc-port": str(ports.grpc),
        "metrics-port": str(ports.metrics),
        "exit-timeout-secs": str(EXIT_SECONDS[engine.backend]),
        "backend-config": f"python,shm-default-byte-size={SHARED_MEMORY}",
        "allow-gpu-metrics": "false",
    }
    if engine.bounds_requests:
        flags[MOST_BYTES] = str(most_bytes)
    if backends is not None:
        flags["backend-directory"] = str(backends)
    return [
        str(engine.binary),
        *closing_flags(secret),
        AS_WRITTEN,
        *(f"--{name}={value}" for name, value in flags.items()),
    ]


def closing_flags(secret: str) -> tuple[str, str]:
    """What closes the interfaces that clients need not, over REST and gRPC, to those who do not send `secret`."""
    key = f"{','.join(RESTRICTED)}:authorization={secret}"
    return f"--http-restricted-api={key}", f"--grpc-restricted-protocol={key}"


def find_engine(named: Path | None = None) -> Engine:
    """The server `named`, or that of the wheel, or the one on PATH.

    Raises:
        EngineError: there is none, or something that it needs is missing; the text says how to mend it.
    """
    if named is not None:
        return _outside(named)
    root = _wheel_root()
    if root is not None:
        return _of_wheel(root)
    found = shutil.which("tritonserver")
    if found is None:
        raise EngineError(f"no Triton server was found; {INSTALL}, or name a tritonserver with --engine")
    return _outside(Path(found))


def _wheel_root() -> Path | None:
    """The wheel's folder of the server, whatever NumPy it was installed beside."""
    try:
        distribution = importlib.metadata.distribution(WHEEL)
    except importlib.metadata.PackageNotFoundError:
        return None
    root = Path(str(distribution.locate_file("pytriton/tritonserver")))
    if not (root / "bin/tritonserver").is_file():
        raise EngineError(f"{WHEEL} must hold a tritonserver, got none in {root}; {INSTALL} --force-reinstall")
    return root


def _of_wheel(root: Path) -> Engine:
    version = importlib.metadata.version(WHEEL)
    if version.split(".")[:2] != TESTED.split(".")[:2]:
        raise EngineError(broken_rule(WHEEL, f"be {TESTED}", version, INSTALL))
    stubs = root / "python_backend_stubs"
    own = f"{sys.version_info.major}.{sys.version_info.minor}"
    if not (stubs / own / STUB).is_file():
        known = sorted((path.name for path in stubs.iterdir()), key=lambda name: [*map(int, name.split("."))])
        raise EngineError(broken_rule("Python", f"be one of {', '.join(known)} for {WHEEL} {version}", own))
    libraries = (_folder_of_libpython(), root.parents[1] / "nvidia_pytriton.libs")
    return Engine(root / "bin/tritonserver", root / "backends", stubs / own / STUB, "python", "", libraries)


def _folder_of_libpython() -> Path:
    """Where the shared library of this Python lies. EngineError for one that was built without."""
    name = str(sysconfig.get_config_var("INSTSONAME") or "")
    for key in ("LIBDIR", "LIBPL"):
        folder = Path(str(sysconfig.get_config_var(key) or ""))
        if ".so" in name and (folder / name).is_file():
            return folder
    remedy = "use one that is built with --enable-shared, as those of Debian, conda and uv are"
    raise EngineError(f"Python must be a shared library for Triton to embed it, got a static one; {remedy}")


def _outside(binary: Path) -> Engine:
    """A server that is no part of the wheel: it has its backends where it looks for them."""
    if not binary.is_file() or not os.access(binary, os.X_OK):
        raise EngineError(broken_rule("engine", "be a tritonserver that can be run", str(binary)))
    said = _help(binary)
    missing = [flag for flag in ("--grpc-restricted-protocol", "--http-restricted-api") if flag not in said]
    if missing:
        rule = f"be a tritonserver of at least {'.'.join(map(str, LEAST_VERSION))}"
        raise EngineError(broken_rule("engine", rule, f"{binary}, which knows no {missing[0]}"))
    backends = binary.resolve().parents[1] / "backends"
    has_own = (backends / "onnxruntime").is_dir()
    backend: Literal["python", "onnxruntime"] = "onnxruntime" if has_own else "python"
    return Engine(binary, None, None, backend, "", bounds_requests=f"--{MOST_BYTES}" in said)


def _help(binary: Path) -> set[str]:
    try:
        done = subprocess.run([binary, "--help"], capture_output=True, text=True, timeout=20, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise EngineError(f"engine must be a tritonserver that can be run, but: {first_line(error)}") from error
    return set(FLAG.findall(done.stdout + done.stderr))


def _package_folders() -> list[str]:
    """Where this Python's packages are: those of its environment, of the user, and what PYTHONPATH adds later."""
    folders = [*site.getsitepackages(), *([site.getusersitepackages()] if site.ENABLE_USER_SITE else [])]
    return [folder for folder in folders if Path(folder).is_dir()]


def _is_passed(name: str) -> bool:
    known = name in PASSED or name.startswith(PASSED_BEGINNINGS)
    return known and SECRETS.search(name) is None


def _parts(value: str | None) -> list[str]:
    return [part for part in (value or "").split(os.pathsep) if part]
