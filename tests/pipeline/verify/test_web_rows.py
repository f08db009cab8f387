"""`verify --runtimes web`: rows of the matrix that a headless browser computes, and what is said where it cannot."""

from types import SimpleNamespace

import numpy as np
import pytest
from outcomes import error_of
from safetensors.numpy import save_file

import aaexport
from aaexport.errors import ArgumentError, ProviderError
from aaexport.pipeline.verify import matrix, rows
from aaexport.pipeline.verify.inputs import Inputs
from aaexport.report.parity.matrix import matrix as parity_matrix
from aaexport.runners import browser, web, web_runtime
from aaexport.runners.browser import find_browser
from aaexport.runners.ort import OrtRunner
from aaexport.runners.web_runtime import find_runtime

WASM, WEBGPU = "onnxruntime-web WebAssembly", "onnxruntime-web WebGPU"


@pytest.fixture
def played(monkeypatch):
    """onnxruntime in the browser's place, which is asked the same; the names of what was asked for."""
    asked = []

    def runner(path, backend="wasm"):
        asked.append(backend)
        return OrtRunner(path)

    monkeypatch.setattr(rows, "WebRunner", runner)
    monkeypatch.setattr(browser, "require_browser", lambda: "chromium")
    monkeypatch.setattr(web_runtime, "find_runtime", lambda given=None: None)
    return asked


def cases_of(report, name):
    (computation,) = (done for done in report.computations if done.name == name)
    return {output.case for output in computation.outputs}


def test_golden_vectors_are_asked_where_a_page_is_proved_by_them(converted, played, monkeypatch, rng):
    """All of them in WebAssembly, and one in WebGPU; no other verification has that column."""
    monkeypatch.setattr(matrix, "why_no_webgpu", lambda: None)
    asked = rng.standard_normal((4, 1, 8, 8), dtype=np.float32)
    save_file({"input": asked, "logits": np.zeros((4, 10), np.float32)}, converted.golden_path)
    report = aaexport.verify(converted, runtimes=("web",))
    assert report.passed
    golden = {"golden vectors, batch 3", "golden vectors, batch 1"}
    assert golden <= cases_of(report, WASM)
    assert golden & cases_of(report, WEBGPU) == {"golden vectors, batch 1"}
    assert parity_matrix(report).headings[-1] == "golden"
    assert len(parity_matrix(report).headings) <= 10
    assert not any("golden" in output.case for output in aaexport.verify(converted).outputs)


@pytest.mark.parametrize(
    ("shape", "dtype", "fixed", "most", "sizes"),
    [
        ((4, 1, 8, 8), np.float32, None, 64, [3, 1]),
        ((4, 1, 8, 8), np.float32, None, 2, [2, 1]),
        ((1, 1, 8, 8), np.float32, None, 64, [1]),
        ((4, 1, 8, 8), np.float32, 6, 6, [6]),
        ((4, 1, 9, 9), np.float32, None, 64, []),
        ((4, 1, 8, 8), np.float64, None, 64, []),
    ],
)
def test_golden_images_are_asked_as_the_file_takes_them(tmp_path, rng, shape, dtype, fixed, most, sizes):
    folder = SimpleNamespace(golden_path=tmp_path / "golden.safetensors")
    images = rng.standard_normal(shape).astype(dtype)
    save_file({"input": images, "logits": np.zeros((len(images), 10), np.float32)}, folder.golden_path)
    subject = SimpleNamespace(folder=folder, golden=None, output_names=("logits",), input_shape=(1, 8, 8))
    asked = Inputs(subject, None, "", None, None, (), (), 0)
    cases = list(asked.golden_cases(fixed, most))
    assert [len(case.batch) for case in cases] == sizes
    if sizes == [3, 1]:
        assert (np.concatenate([case.batch for case in cases]) == images).all()


def test_without_golden_vectors_none_are_asked(tmp_path):
    subject = SimpleNamespace(folder=None, golden=None)
    assert not list(Inputs(subject, None, "", None, None, (), (), 0).golden_cases(None, 64))


def test_webgpu_is_a_row_of_few_inputs_before_webassembly(converted, played, monkeypatch):
    monkeypatch.setattr(matrix, "why_no_webgpu", lambda: None)
    report = aaexport.verify(converted, runtimes=("web",))
    assert report.passed
    assert set(played) == {"wasm", "webgpu"}
    assert [done.name for done in report.computations][-2:] == [WEBGPU, WASM]
    few, all_of_them = cases_of(report, WEBGPU), cases_of(report, WASM)
    assert few < all_of_them
    assert f"{WEBGPU} is imitated by the CPU here: asked {len(few)} of " in " ".join(report.notes)


@pytest.mark.parametrize(
    ("small", "why", "said"),
    [
        (True, "the browser here has no WebGPU", "was not run: the browser here has no WebGPU"),
        (False, None, "was not run: the CPU would imitate it for too long"),
    ],
)
def test_where_there_is_no_webgpu_that_is_said(monkeypatch, small, why, said):
    monkeypatch.setattr(matrix, "suits_reference", lambda summary: small)
    monkeypatch.setattr(matrix, "why_no_webgpu", lambda: why)
    asked = SimpleNamespace(summary=None, cases=(), notes=[])
    assert not matrix.Matrix._has_webgpu(asked)
    assert asked.notes == [f"{WEBGPU} {said}"]


def test_a_browser_that_does_not_start_has_no_webgpu_and_one_that_is_not_there_is_an_error(monkeypatch, tmp_path):
    """It may start without what imitates a GPU; where it does not, the row of WebAssembly ends the verification."""
    program = tmp_path / "chromium"
    program.write_text("#!/bin/sh\necho no display >&2\nexit 1\n")
    program.chmod(0o755)
    monkeypatch.setattr(browser, "find_browser", lambda: str(program))
    assert web.why_no_webgpu() == f"{program} does not start: the browser ended, and said: no display"
    monkeypatch.setattr(browser, "find_browser", lambda: None)
    with pytest.raises(ProviderError, match="a browser must be on the PATH"):
        web.why_no_webgpu()


def test_without_a_browser_or_the_package_the_remedy_is_told(monkeypatch, tmp_path, cli):
    monkeypatch.setattr(web_runtime, "PLACES", ())
    monkeypatch.setattr(browser, "find_browser", lambda: "chromium")
    error = error_of(cli("verify", "aa_cnn3_digits", "--runtimes", "web"), 5)
    assert error.startswith("onnxruntime-web must be at hand, got none; run `npm install")
    monkeypatch.setattr(browser, "find_browser", lambda: None)
    error = error_of(cli("verify", "aa_cnn3_digits", "--runtimes", "web"), 5)
    assert error == (
        "a browser must be on the PATH, chromium or chromium-browser or google-chrome or chrome, got none; install "
        "one: apt-get install chromium"
    )
    assert not any(tmp_path.iterdir())


@pytest.mark.slow
def test_a_browser_computes_the_same(converted):
    if find_browser() is None:
        pytest.skip("no chromium or chrome is on the PATH: no file is run there")
    try:
        find_runtime()
    except ProviderError as error:
        pytest.skip(f"{error}: no file is run there")
    report = aaexport.verify(converted, runtimes=("web",))
    assert report.passed
    assert WASM in [done.name for done in report.computations]
    assert report.accuracy.runner == report.accuracy.torch


def test_a_misspelt_runtime_is_refused(converted):
    with pytest.raises(ArgumentError, match="runtimes must be known ones, got 'wbe'; did you mean 'web'"):
        aaexport.verify(converted, runtimes=("wbe",))
