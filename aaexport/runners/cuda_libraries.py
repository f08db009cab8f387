"""Where pip put CUDA's, cuDNN's and TensorRT's libraries → loaded ones, or what is missing and what to install."""

from __future__ import annotations

import ctypes
import os
import re
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from aaexport.errors import first_line

# Below a folder of packages: NVIDIA's wheels, of CUDA 12 (cublas/lib …) as of CUDA 13 (cu13/lib), which torch and
# onnxruntime-gpu share; what torch carries itself; TensorRT's wheels.
PLACES = ("nvidia/*/lib", "torch/lib", "tensorrt_libs")
TOOLKIT_VARIABLES = ("CUDA_HOME", "CUDA_PATH")
DRIVER = "libcuda"  # comes with NVIDIA's driver, and with nothing else
CUDNN, TENSORRT = "9", "10"  # that onnxruntime 1.23 and later are linked with
OF_ANOTHER_CUDA = re.compile(r"cu\d+")


@dataclass(frozen=True)
class Library:
    """A shared library with the major version that onnxruntime is linked with, and how to get it.

    `wheel` is the distribution that brings it; where its name ends in `cu13`, that alone tells for which CUDA it is.
    """

    name: str
    version: str
    wheel: str
    remedy: str
    required: bool = True

    @property
    def file(self) -> str:
        """As the dynamic linker asks for it."""
        return f"{self.name}.so.{self.version}"


@dataclass(frozen=True)
class Missing:
    """A library that is not there: `cause` says which and what is there instead, `remedy` what to do."""

    cause: str
    remedy: str


def needed_libraries(cuda: str, tensorrt: bool = False) -> tuple[Library, ...]:
    """What an onnxruntime built with this CUDA (`13.0`) loads, each after what it needs itself.

    cuFFT and NVRTC are loaded by what few models contain; no session needs them to start.
    """
    major = cuda.partition(".")[0]
    suffix = f"-cu{major}" if int(major) < 13 else ""  # NVIDIA's own naming
    toolkit = "pip install 'aaexport[cuda]'"
    tensorrt_wheel = f"tensorrt-cu{major}-libs"
    of_tensorrt = f"pip install '{tensorrt_wheel}=={TENSORRT}.*'"
    needed = (
        Library(DRIVER, "1", "", "install the NVIDIA driver"),
        Library("libcudart", major, f"nvidia-cuda-runtime{suffix}", toolkit),
        Library("libnvrtc", major, f"nvidia-cuda-nvrtc{suffix}", toolkit, required=False),
        Library("libcublasLt", major, f"nvidia-cublas{suffix}", toolkit),
        Library("libcublas", major, f"nvidia-cublas{suffix}", toolkit),
        Library("libcurand", "10", f"nvidia-curand{suffix}", toolkit),
        Library("libcufft", str(int(major) - 1), f"nvidia-cufft{suffix}", toolkit, required=False),
        Library("libcudnn", CUDNN, f"nvidia-cudnn-cu{major}", toolkit),
    )
    if not tensorrt:
        return needed
    return (
        *needed,
        Library("libnvinfer", TENSORRT, tensorrt_wheel, of_tensorrt),
        Library(
            "libnvinfer_plugin", TENSORRT, tensorrt_wheel, of_tensorrt, required=False
        ),  # for its own operators, which few have
        Library("libnvonnxparser", TENSORRT, tensorrt_wheel, of_tensorrt),
    )


def library_folders(packages: Iterable[str], toolkits: Iterable[str] = ()) -> tuple[Path, ...]:
    """The folders that may hold libraries, below each of `packages` (as `sys.path`), then of installed toolkits."""
    roots = dict.fromkeys(Path(entry or ".") for entry in packages)
    of_wheels = [folder for root in roots for place in PLACES for folder in sorted(root.glob(place))]
    of_toolkits = [Path(toolkit) / "lib64" for toolkit in toolkits]
    return tuple(folder for folder in (*of_wheels, *of_toolkits) if folder.is_dir())


def find_library(library: Library, folders: Sequence[Path]) -> Path | None:
    """The first file of the right version that was built for the right CUDA."""
    paths = (folder / library.file for folder in folders)
    return next((path for path in paths if path.is_file() and not _wrong_wheel(library, path)), None)


def explain_missing(library: Library, folders: Sequence[Path], built_with: str) -> Missing:
    """What is there instead of a library, for someone who must install the right one."""
    found = "none"
    for folder in folders:
        others = sorted(folder.glob(f"{library.name}.so.*"), key=lambda path: (path.name != library.file, path.name))
        if others:
            wheel = _wrong_wheel(library, others[0])
            found = f"{others[0]}" + (f" of {wheel}" if wheel else "")
            break
    needed = library.file + (f" of {library.wheel}" if OF_ANOTHER_CUDA.search(library.wheel) else "")
    return Missing(f"{library.name} must be {needed} for {built_with}, got {found}", library.remedy)


def load_libraries(libraries: Iterable[Library], folders: Sequence[Path], built_with: str) -> Missing | None:
    """Loads each into this process, where onnxruntime's provider then finds it; the first missing one, or None.

    One that is in the process already, by torch say, stays. The dynamic linker's own places come last.
    """
    for library in libraries:
        trouble = _load(library, folders)
        if trouble is None or not library.required:
            continue
        if trouble:
            return Missing(f"{library.name} must load, got {trouble}", library.remedy)
        return explain_missing(library, folders, built_with)
    return None


def load_cuda_libraries(cuda: str, built_with: str, tensorrt: bool = False) -> Missing | None:
    """Of this process's packages, on Linux; None where all are loaded, or where `cuda` names no version."""
    if sys.platform != "linux" or not cuda.partition(".")[0].isdecimal():
        return None
    named = [os.environ[name] for name in TOOLKIT_VARIABLES if os.environ.get(name)]
    folders = library_folders(sys.path, (*named, "/usr/local/cuda"))
    return load_libraries(needed_libraries(cuda, tensorrt), folders, built_with)


def _load(library: Library, folders: Sequence[Path]) -> str | None:
    """None if it is loaded; why the file that was found would not load, or empty if none was found."""
    path = find_library(library, folders)
    in_the_process = (library.file, os.RTLD_NOLOAD | os.RTLD_NOW)
    found = [(str(path), ctypes.DEFAULT_MODE)] if path else []
    trouble = ""
    for name, mode in (in_the_process, *found, (library.file, ctypes.DEFAULT_MODE)):
        try:
            ctypes.CDLL(name, mode=mode)
        except OSError as error:
            trouble = first_line(error) if name == str(path) else trouble
        else:
            return None
    return trouble


def _wrong_wheel(library: Library, path: Path) -> str | None:
    """The wheel that brought the file, if it is for another CUDA although the file's name does not tell.

    nvidia-cudnn-cu12 and -cu13 both write nvidia/cudnn/lib/libcudnn.so.9.
    """
    packages = next((p.parent for p in path.parents if p.name in {"nvidia", "tensorrt_libs"}), None)
    if packages is None or not OF_ANOTHER_CUDA.search(library.wheel):
        return None
    pattern = OF_ANOTHER_CUDA.sub("cu[0-9]*", library.wheel.replace("-", "_"))
    installed = [info.name.partition("-")[0].replace("_", "-") for info in packages.glob(f"{pattern}-*.dist-info")]
    return installed[0] if installed and library.wheel not in installed else None
