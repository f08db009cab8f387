"""npm's package onnxruntime-web: found where it lies, fetched where that is asked for, and missed with a remedy."""

import pytest
from pages import fake_runtime

from aaexport.errors import ProviderError
from aaexport.runners import web_runtime
from aaexport.runners.web_runtime import fetch_runtime, find_runtime


def test_it_is_found_where_npm_puts_it(tmp_path, monkeypatch):
    monkeypatch.setattr(web_runtime, "PLACES", (tmp_path / "none", tmp_path / "node_modules/onnxruntime-web"))
    with pytest.raises(ProviderError, match=r"got none; run `npm install onnxruntime-web@~1\.30\.0` here, or name"):
        find_runtime()
    fake_runtime(tmp_path / "node_modules/onnxruntime-web")
    found = find_runtime()
    assert found.version == "1.30.0"
    assert found.script("wasm").read_text() == "ort.wasm.bundle.min.mjs\n"
    assert find_runtime(tmp_path) == found  # the folder of the package, or that with node_modules


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        ({"without": ["ort-wasm-simd-threaded.wasm"]}, "runtime_files must hold dist/ort-wasm-simd-threaded.wasm"),
        ({"name": "left-pad"}, "runtime_files must hold the package onnxruntime-web, got 'left-pad'"),
    ],
)
def test_another_package_is_refused(tmp_path, options, complaint):
    with pytest.raises(ProviderError) as caught:
        find_runtime(fake_runtime(tmp_path / "package", **options))
    assert str(caught.value).startswith(complaint)


def test_a_folder_without_it_is_refused(tmp_path):
    with pytest.raises(ProviderError, match="runtime_files must be the folder of npm's package onnxruntime-web, got"):
        find_runtime(tmp_path)
    fake_runtime(tmp_path / "odd")
    (tmp_path / "odd/package.json").write_text("[]")
    with pytest.raises(ProviderError, match=r"package\.json must be npm's, but"):
        find_runtime(tmp_path / "odd")


def npm(folder, script, monkeypatch):
    """Puts a program of that name, and nothing else, on the PATH."""
    folder.mkdir()
    (folder / "npm").write_text(f"#!/bin/sh\n{script}\n")
    (folder / "npm").chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:/usr/bin:/bin")


def test_npm_fetches_it_where_that_is_asked_for(tmp_path, monkeypatch):
    fake_runtime(tmp_path / "registry/package")
    npm(tmp_path / "bin", f'tar -czf "$4/x.tgz" -C {tmp_path / "registry"} package', monkeypatch)
    (tmp_path / "room").mkdir()
    assert fetch_runtime(tmp_path / "room").script("webgpu").is_file()


@pytest.mark.parametrize(
    ("script", "complaint"),
    [
        ("echo 'npm error ENOTFOUND' >&2; exit 1", "npm cannot fetch onnxruntime-web: npm error ENOTFOUND; fetch"),
        ('echo broken > "$4/x.tgz"', "npm cannot fetch onnxruntime-web: "),
    ],
)  # fmt: skip
def test_without_a_network_the_remedy_is_told(tmp_path, monkeypatch, script, complaint):
    npm(tmp_path / "bin", script, monkeypatch)
    with pytest.raises(ProviderError, match="name its folder by") as caught:
        fetch_runtime(tmp_path)
    assert str(caught.value).startswith(complaint)


def test_without_npm_too(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ProviderError, match="npm must be on the PATH to fetch onnxruntime-web"):
        fetch_runtime(tmp_path)
