"""CUDA's libraries: found in every layout of pip, in the right version; what is said where they are not."""

import ctypes
import mmap
import os
import sys
from pathlib import Path

import onnxruntime
import pytest

from aaexport.runners.cuda_libraries import (
    Missing,
    explain_missing,
    find_library,
    library_folders,
    load_libraries,
    needed_libraries,
)

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="elsewhere onnxruntime's own search is used")
NEEDED = {library.name: library for library in needed_libraries("13.0", tensorrt=True)}
CUBLAS, CUDNN = NEEDED["libcublas"], NEEDED["libcudnn"]
BUILD = "onnxruntime 1.31.1 of CUDA 13.0"


def put(root, *files):
    for file in files:
        path = root / file
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()


def folders(*roots, toolkits=()):
    return library_folders(map(str, roots), map(str, toolkits))


@pytest.fixture
def linker(monkeypatch):
    """Stands in for the dynamic linker, with nothing in the process yet; gives the list of what was loaded.

    It loads every file but `broken` ones, and what lies in its `own` places.
    """

    def install(*own, broken=()):
        loaded = []

        def load(name, mode):
            known = Path(name).is_absolute() and name not in map(str, broken)
            if mode & os.RTLD_NOLOAD or not (known or name in own):
                raise OSError(f"{name}: cannot open shared object file")
            loaded.append(name)

        monkeypatch.setattr(ctypes, "CDLL", load)
        return loaded

    return install


# Finding


@pytest.mark.parametrize(
    "place", ["nvidia/cu13/lib", "nvidia/cublas/lib", "torch/lib"], ids=["CUDA 13's wheels", "older wheels", "torch"]
)
def test_a_library_is_found_in_every_layout(tmp_path, place):
    put(tmp_path, f"{place}/libcublas.so.13")
    assert find_library(CUBLAS, folders(tmp_path)) == tmp_path / place / "libcublas.so.13"


def test_a_library_is_found_on_any_entry_of_the_path(tmp_path):
    put(tmp_path / "venv", "onnxruntime/__init__.py")
    put(tmp_path / "base", "nvidia/cu13/lib/libcublas.so.13")
    entries = folders(tmp_path / "no such", tmp_path / "venv", tmp_path / "base")
    assert find_library(CUBLAS, entries) == tmp_path / "base/nvidia/cu13/lib/libcublas.so.13"


def test_a_library_of_another_version_is_passed_over(tmp_path):
    put(tmp_path / "first", "nvidia/cublas/lib/libcublas.so.12")
    put(tmp_path / "second", "nvidia/cu13/lib/libcublas.so.13")
    found = find_library(CUBLAS, folders(tmp_path / "first", tmp_path / "second"))
    assert found == tmp_path / "second/nvidia/cu13/lib/libcublas.so.13"


def test_a_toolkit_comes_after_the_wheels(tmp_path):
    put(tmp_path / "toolkit", "lib64/libcublas.so.13", "lib64/libcurand.so.10")
    put(tmp_path / "site", "nvidia/cu13/lib/libcublas.so.13")
    places = folders(tmp_path / "site", toolkits=[tmp_path / "toolkit"])
    assert find_library(CUBLAS, places) == tmp_path / "site/nvidia/cu13/lib/libcublas.so.13"
    assert find_library(NEEDED["libcurand"], places) == tmp_path / "toolkit/lib64/libcurand.so.10"


def test_tensorrt_is_found_in_its_wheel(tmp_path):
    put(tmp_path, "tensorrt_libs/libnvinfer.so.10")
    found = find_library(NEEDED["libnvinfer"], folders(tmp_path))
    assert found == tmp_path / "tensorrt_libs/libnvinfer.so.10"


@pytest.mark.parametrize(("wheels", "found"), [(("12",), False), (("13",), True), (("12", "13"), True), ((), True)])
def test_a_cudnn_that_was_built_for_another_cuda_is_passed_over(tmp_path, wheels, found):
    """Its file is called the same."""
    put(tmp_path, "nvidia/cudnn/lib/libcudnn.so.9")
    put(tmp_path, *(f"nvidia_cudnn_cu{major}-9.20.0.48.dist-info/METADATA" for major in wheels))
    assert (find_library(CUDNN, folders(tmp_path)) is not None) is found


@pytest.mark.parametrize(
    ("cuda", "names"),
    [
        ("12.8", {"libcublas.so.12", "libcufft.so.11", "libcurand.so.10", "libcudart.so.12", "libcudnn.so.9"}),
        ("13.0", {"libcublas.so.13", "libcufft.so.12", "libcurand.so.10", "libcudart.so.13", "libcudnn.so.9"}),
    ],
)
def test_every_library_has_the_version_of_its_cuda(cuda, names):
    assert names <= {library.file for library in needed_libraries(cuda)}


@pytest.mark.parametrize("provider", ["cuda", "tensorrt"])
def test_what_is_required_is_what_the_installed_provider_is_linked_with(provider):
    path = Path(onnxruntime.__file__).parent / f"capi/libonnxruntime_providers_{provider}.so"
    if not path.is_file():
        pytest.skip("this onnxruntime has no such provider")
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ) as binary:
        needed = needed_libraries(onnxruntime.cuda_version, tensorrt=provider == "tensorrt")
        linked = [one.file for one in needed if binary.find(one.file.encode() + b"\0") >= 0]
    of_cuda = ["libcuda.so.1", "libcudart.so.13", "libcublasLt.so.13", "libcublas.so.13", "libcurand.so.10"]
    of_tensorrt = ["libcudart.so.13", "libcublas.so.13", "libcudnn.so.9", "libnvinfer.so.10", "libnvonnxparser.so.10"]
    if onnxruntime.cuda_version.startswith("13"):
        assert set({"cuda": of_cuda, "tensorrt": of_tensorrt}[provider]) <= set(linked)


# Loading


def test_libraries_are_loaded_from_where_pip_put_them_in_the_order_of_their_needs(tmp_path, linker):
    names = ("cu13/lib/libcublasLt.so.13", "cu13/lib/libcublas.so.13", "cudnn/lib/libcudnn.so.9")
    files = [tmp_path / "nvidia" / name for name in names]
    put(tmp_path, *files)
    loaded = linker("libcuda.so.1", "libcudart.so.13", "libcurand.so.10")
    assert load_libraries(needed_libraries("13.0"), folders(tmp_path), BUILD) is None
    assert [name for name in loaded if "/" in name] == [str(file) for file in files]


def test_what_the_process_has_already_is_not_loaded_twice(tmp_path, monkeypatch):
    put(tmp_path, "nvidia/cu13/lib/libcublas.so.13")
    calls = []
    monkeypatch.setattr(ctypes, "CDLL", lambda name, mode: calls.append((name, mode)))
    assert load_libraries([CUBLAS], folders(tmp_path), BUILD) is None
    assert calls == [("libcublas.so.13", os.RTLD_NOLOAD | os.RTLD_NOW)]


def test_the_linkers_own_places_will_do(tmp_path, linker):
    linker("libcublas.so.13")
    assert load_libraries([CUBLAS], folders(tmp_path), BUILD) is None


def test_a_file_that_does_not_load_is_told_with_the_linkers_reason(tmp_path, linker):
    path = tmp_path / "nvidia/cu13/lib/libcublas.so.13"
    put(tmp_path, path)
    linker(broken=[path])
    missing = load_libraries([CUBLAS], folders(tmp_path), BUILD)
    assert missing.cause == f"libcublas must load, got {path}: cannot open shared object file"


def test_what_no_session_needs_may_be_missing(tmp_path, linker):
    linker()
    assert load_libraries([NEEDED["libcufft"], NEEDED["libnvrtc"]], folders(tmp_path), BUILD) is None


def test_the_driver_is_the_first_thing_to_be_missed(tmp_path, linker):
    linker()
    missing = load_libraries(needed_libraries("13.0"), folders(tmp_path), BUILD)
    assert missing == Missing(f"libcuda must be libcuda.so.1 for {BUILD}, got none", "install the NVIDIA driver")


# Explaining


def test_a_mismatch_names_library_place_need_and_remedy(tmp_path, linker):
    """torch for CUDA 12 beside an onnxruntime for CUDA 13."""
    put(tmp_path, "nvidia/cublas/lib/libcublas.so.12", "nvidia/cublas/lib/libcublasLt.so.12")
    linker("libcuda.so.1", "libcudart.so.13")
    missing = load_libraries(needed_libraries("13.0"), folders(tmp_path), BUILD)
    found = tmp_path / "nvidia/cublas/lib/libcublasLt.so.12"
    assert missing.cause == f"libcublasLt must be libcublasLt.so.13 for {BUILD}, got {found}"
    assert missing.remedy == "pip install 'aaexport[cuda]'"


def test_a_cudnn_of_another_cuda_is_told_by_its_wheel(tmp_path):
    put(tmp_path, "nvidia/cudnn/lib/libcudnn.so.9", "nvidia_cudnn_cu12-9.10.2.21.dist-info/METADATA")
    found = tmp_path / "nvidia/cudnn/lib/libcudnn.so.9"
    assert explain_missing(CUDNN, folders(tmp_path), BUILD).cause == (
        f"libcudnn must be libcudnn.so.9 of nvidia-cudnn-cu13 for {BUILD}, got {found} of nvidia-cudnn-cu12"
    )


def test_tensorrt_that_is_not_there_says_which_wheel_brings_it(tmp_path):
    missing = explain_missing(NEEDED["libnvinfer"], folders(tmp_path), BUILD)
    assert missing.remedy == "pip install 'tensorrt-cu13-libs==10.*'"
