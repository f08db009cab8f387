"""A model as a web page: written, tried in a browser, and driven there as a visitor drives it."""

import hashlib
import io
import json
import re
from dataclasses import replace

import numpy as np
import onnx
import pytest
from deployable import digits_folder, somebody_elses, write
from fewer_bits import folder_in_fewer_bits
from observed import OUTPUT, observed_folder
from outcomes import error_of
from pages import Page, axe_violations, fake_runtime, on_screen, opened

import aaexport
from aaexport.deployment import web
from aaexport.deployment.manifest import files_in
from aaexport.deployment.web import Site, site_files
from aaexport.errors import ArgumentError, DeploymentError, ProviderError
from aaexport.folder import checkout
from aaexport.nn.attention_maps import outputs_and_attention
from aaexport.pipeline.deploy import trial
from aaexport.pixels import network_input
from aaexport.report.site.site import page_files
from aaexport.runners import browser, web_runtime
from aaexport.runners.browser import WITH_WEBGPU, WITHOUT_GPU, Browser, find_browser
from aaexport.runners.loopback import serving
from aaexport.runners.web import WebRunner
from aaexport.runners.web_runtime import find_runtime
from aaexport.serving.reading import read_facts

EXACT = 1e-5  # of a probability
LARGEST = 15e6  # bytes of a small network's site
PATIENCE_OF_SHADERS = 300.0  # seconds, to compile them for a GPU that the CPU imitates
SHARES = "JSON.stringify([...document.querySelectorAll('#bars meter')].map(meter => meter.value))"


@pytest.fixture(scope="module")
def runtime():
    try:
        return find_runtime()
    except ProviderError as error:
        pytest.skip(f"{error}: no page is run")


@pytest.fixture(scope="module")
def deployed(tmp_path_factory, runtime):
    """(folder, its site, what the deployment told)."""
    if find_browser() is None:
        pytest.skip("no chromium or chrome is on the PATH: no page is run")
    room = tmp_path_factory.mktemp("web")
    folder = observed_folder(room / "digits")
    return folder, room / "site", aaexport.deploy(folder, "web", room / "site")


@pytest.fixture(scope="module")
def page(deployed):
    with opened(files_in(deployed[1])) as page:
        yield page


def softmax(scores):
    shares = np.exp(scores - scores.max())
    return shares / shares.sum()


# What is written


def test_a_page_is_written_once_a_browser_answers_right(deployed):
    _, site, result = deployed
    assert [check.name for check in result.checks] == ["answers", "browser", "files", "page", "site"]
    assert result.passed
    assert result.checks[1].found == "4 golden images right in onnxruntime-web WebAssembly"
    assert aaexport.check_deployment(site).passed
    assert any(note.startswith("onnxruntime-web 1.") for note in result.notes)
    assert "the page tells no parity: `aaexport verify` has not judged this very file" in result.notes


class Stub:
    """A browser that has seen a page: what that said of itself, and what the console told."""

    trouble, proof, verdict, events = "", "right", "Yes.", ()
    __enter__, open = (lambda self: self), (lambda self, url: None)
    __exit__ = __init__ = lambda self, *given: None

    def evaluate(self, expression, **_):
        if expression == trial.PROVED:
            return self.proof
        return self.verdict if "verdict" in expression else self.trouble


def error_told(text):
    return {"method": "Log.entryAdded", "params": {"entry": {"level": "error", "text": text}}}


def thrown(text):
    details = {"exception": {"description": f"{text}\n    at site.js:1"}}
    return {"method": "Runtime.exceptionThrown", "params": {"exceptionDetails": details}}


@pytest.mark.parametrize(
    ("seen", "complaint"),
    [
        (
            {"proof": "wrong", "verdict": "No: 4 of 4 pictures have other answers here."},
            "No: 4 of 4 pictures have other answers here.",
        ),
        ({"trouble": "The network cannot be run here."}, "The network cannot be run here."),
        ({"events": [error_told("Refused to load a style")]}, "the browser: Refused to load a style"),
        ({"events": [thrown("TypeError: null is no number")]}, "the page's script: TypeError: null is no number"),
        ({"proof": None, "verdict": ""}, ""),
    ],
)
def test_a_page_that_a_browser_shows_broken_is_not_written(tmp_path, monkeypatch, seen, complaint):
    monkeypatch.setattr(trial, "find_browser", lambda: "chromium")
    monkeypatch.setattr(trial, "Browser", type("Seen", (Stub,), seen))
    folder = observed_folder(tmp_path / "digits")
    with pytest.raises(DeploymentError, match="was not written: browser: " + re.escape(complaint)):
        aaexport.deploy(folder, "web", tmp_path / "site", runtime_files=fake_runtime(tmp_path / "package"))
    assert not (tmp_path / "site").exists()


@pytest.mark.parametrize(
    ("old", "new", "complaint"),
    [
        ("worst.toExponential(1)", "worst.toExponent(1)", "That did not work. worst.toExponent is not a function."),
        ("const { absolute, share } = about", "const { absolute, share } = nothing", "nothing is not defined"),
        ('"use strict";', '"use strict"; throw new Error("broken");', "the page's script: Error: broken"),
        ("size = data.reduce(", "size = -5 * data.reduce(", "No: 4 of 4 pictures have other answers here."),
    ],
    ids=["a text", "a proof", "from the beginning", "other answers"],
)
@pytest.mark.slow
def test_the_page_that_is_tried_is_the_one_that_is_written(deployed, tmp_path, monkeypatch, old, new, complaint):
    """Whatever breaks its script breaks the deployment."""
    from aaexport.report.site import site

    own = site._read
    monkeypatch.setattr(site, "_read", lambda name: own(name).replace(old, new))
    monkeypatch.setattr(trial, "LOAD_TIMEOUT", 5.0)  # a script that ends at once never says that it is ready
    with pytest.raises(DeploymentError, match="was not written: browser: .*" + re.escape(complaint)):
        aaexport.deploy(deployed[0], "web", tmp_path / "site")
    assert not (tmp_path / "site").exists()


def test_a_browser_that_does_not_start_is_no_fault_of_the_page(tmp_path, monkeypatch):
    """As the stand-in that Ubuntu installs for a snap: the page is written, and the cause is told."""
    program = tmp_path / "chromium"
    program.write_text("#!/bin/sh\necho 'it requires the chromium snap to be installed.' >&2\nexit 1\n")
    program.chmod(0o755)
    for where in (trial, browser):
        monkeypatch.setattr(where, "find_browser", lambda: str(program))
    folder, package = observed_folder(tmp_path / "digits"), fake_runtime(tmp_path / "package")
    result = aaexport.deploy(folder, "web", tmp_path / "site", runtime_files=package)
    assert result.passed
    assert result.notes[-1] == (
        f"no browser could try it: {program} does not start: the browser ended, and said: it requires the chromium "
        "snap to be installed.; the page's own button does"
    )
    assert "browser" not in {check.name for check in result.checks}


def test_without_a_browser_that_is_said(tmp_path, monkeypatch):
    monkeypatch.setattr(trial, "find_browser", lambda: None)
    folder = observed_folder(tmp_path / "digits")
    package = fake_runtime(tmp_path / "package")
    result = aaexport.deploy(folder, "web", tmp_path / "site", runtime_files=package)
    assert result.notes[-1] == "no browser was at hand to try it in: the page's own button does"
    assert "browser" not in {check.name for check in result.checks}


def test_a_verdict_that_it_did_not_pass_is_not_kept_from_visitors(tmp_path, monkeypatch):
    monkeypatch.setattr(trial, "find_browser", lambda: None)
    folder, package = observed_folder(tmp_path / "digits"), fake_runtime(tmp_path / "package")
    record = {"passed": False, "onnx_sha256": read_facts(folder).onnx_sha256, "date": "2026-01-31T09:30:00Z"}
    folder.parity_of("float32").write_text(json.dumps(record))
    result = aaexport.deploy(folder, "web", tmp_path / "site", runtime_files=package)
    assert "the page tells that this very file did not pass `aaexport verify`" in result.notes
    told = json.loads((tmp_path / "site/site.json").read_text())["record"]["told"]
    assert told == "On 2026-01-31 this very file was compared with PyTorch, and did not pass."


def test_a_page_is_served_to_this_machine_until_somebody_ends_it(tmp_path, monkeypatch, cli):
    def end():
        raise KeyboardInterrupt

    monkeypatch.setattr(trial, "find_browser", lambda: None)
    monkeypatch.setattr("aaexport.cli.deploy._wait_for_ever", end)
    folder, package = observed_folder(tmp_path / "digits"), fake_runtime(tmp_path / "package")
    aaexport.deploy(folder, "web", tmp_path / "site", runtime_files=package)
    outcome = cli("deploy", "--check", tmp_path / "site", "--preview")
    assert outcome.code == 0
    assert re.search(r"serving \S+site on http://127\.0\.0\.1:\d+/ to this machine; Ctrl-C ends it", outcome.err)
    aaexport.deploy(folder, "ray", tmp_path / "ray")
    error = error_of(cli("deploy", "--check", tmp_path / "ray", "--preview"), 2)
    assert error == "--preview must be left out but for web, got 'a deployment for ray'"
    error = error_of(cli("deploy", folder.path, "--to", "ray", "--out", tmp_path / "other", "--preview"), 2)
    assert error == "--preview must be left out but for web, got --to ray"


def test_without_the_package_nothing_is_begun(tmp_path, monkeypatch, cli):
    monkeypatch.setattr(web_runtime, "PLACES", ())
    error = error_of(cli("deploy", "aa_cnn3_digits", "--to", "web", "--out", str(tmp_path / "site")), 5)
    assert error.startswith("onnxruntime-web must be at hand, got none; run `npm install onnxruntime-web")
    assert "by --runtime-files" in error
    assert not any(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("to", "options", "complaint"),
    [
        ("triton", {"runtime_files": "x"}, "runtime_files must be left out for triton, got 'x'; it is for web"),
        ("web", {"threads": 2}, "threads must be left out for web"),
        (
            "web",
            {"runtime_files": "x", "fetch_runtime": True},
            "runtime_files must be left out where onnxruntime-web",
        ),
    ],
)
def test_options_that_mean_nothing_to_it(deployed, tmp_path, to, options, complaint):
    with pytest.raises(ArgumentError) as caught:
        aaexport.deploy(deployed[0], to, tmp_path / "out", **options)
    assert str(caught.value).startswith(complaint)


# What a visitor sees


def test_it_begins_with_a_picture_and_says_where_it_runs(page):
    assert "model checked" in page.text("state")
    assert "Runs in WebAssembly in one thread, on this device; this browser’s WebGPU" in page.text("state")
    assert page.js("document.title") == "digits: try it"


def test_a_dropped_picture_is_seen_as_in_training(page, deployed, tmp_path, rng):
    from PIL import Image

    file = tmp_path / "scan.png"
    Image.fromarray(rng.integers(0, 256, (29, 41, 3), dtype=np.uint8)).save(file)
    before = page.js(SHARES)
    page.drop(file)
    page.wait(f"{SHARES} != {json.dumps(before)}")
    image = read_facts(deployed[0]).image
    fed = network_input(file.read_bytes(), image.shape, image.mean, image.std, image.crop_share, 10**6)
    expected = softmax(fed.reshape(-1)[:10].astype(np.float64))
    np.testing.assert_allclose(page.shares(), expected, atol=EXACT)
    assert page.text("label") == str(expected.argmax())


def test_transparency_is_dropped_as_in_training(page, deployed, tmp_path, rng):
    """What no one sees has colours all the same, and they are what a data set's reader takes."""
    from PIL import Image

    pixels = rng.integers(0, 256, (9, 8, 4), dtype=np.uint8)
    pixels[..., 3] *= rng.integers(0, 2, (9, 8), dtype=np.uint8)
    file = tmp_path / "clear.png"
    Image.fromarray(pixels).save(file)
    before = page.js(SHARES)
    page.drop(file)
    page.wait(f"{SHARES} != {json.dumps(before)}")
    image = read_facts(deployed[0]).image
    fed = network_input(file.read_bytes(), image.shape, image.mean, image.std, image.crop_share, 10**6)
    np.testing.assert_allclose(page.shares(), softmax(fed.reshape(-1)[:10].astype(np.float64)), atol=EXACT)


def test_runs_take_turns_and_the_last_picture_wins(page):
    """onnxruntime-web must not be asked twice at once, and a session not be taken away under a run."""
    page.click("clear")
    page.js(
        "(own => { session.run = async feeds => { together += 1; most = Math.max(most, together);"
        "try { return await own(feeds); } finally { together -= 1; } }; })(session.run.bind(session)),"
        "globalThis.together = globalThis.most = 0"
    )
    page.draw("pad", [(0.5, 0.2), (0.5, 0.8)])
    page.click("again")
    page.click("prove")
    page.js("guarded(start)('wasm')")
    page.draw("pad", [(0.1, 0.2), (0.9, 0.2)])
    page.wait("!document.getElementById('again').disabled && !document.getElementById('prove').disabled && !busy")
    assert page.js("most") == 1
    assert page.js("document.getElementById('trouble').hidden")
    assert page.text("verdict").startswith("Yes, the same numbers. ")
    assert page.js("shown.input.join() === fromStrokes().input.join()")


def test_a_drawing_is_followed_and_cleared(page):
    page.click("clear")
    page.draw("pad", [(0.5, 0.2), (0.5, 0.8)])
    page.wait("document.getElementById('hint').hidden")
    upright = page.js(SHARES)
    page.draw("pad", [(0.1, 0.2), (0.9, 0.2)])
    page.wait(f"{SHARES} != {json.dumps(upright)}")
    page.click("clear")
    assert not page.js("document.getElementById('hint').hidden")
    assert (page.text("label"), page.text("share"), page.shares()) == ("–", "", [])


def test_one_finger_draws(page):
    """A second one, or another button of the mouse, leaves no stroke, and bends none."""
    page.click("clear")
    left, top, width, height = page.middle("pad")
    fingers = [
        {"x": left + width * share, "y": top + height / 2, "id": number} for number, share in ((1, 0.2), (2, 0.8))
    ]
    for kind, points in (("touchStart", fingers[:1]), ("touchStart", fingers), ("touchEnd", [])):
        page.browser.call("Input.dispatchTouchEvent", {"type": kind, "touchPoints": points})
    at = {"x": left + width / 2, "y": top + height / 2, "button": "right", "clickCount": 1}
    for kind in ("mousePressed", "mouseReleased"):
        page.browser.call("Input.dispatchMouseEvent", {"type": kind, **at})
    assert page.js("strokes.length") == 1


def test_one_can_draw_with_the_keyboard_alone(page):
    page.click("clear")
    page.js("document.getElementById('pad').focus()")
    page.press("ArrowUp", "ArrowUp", " ", "ArrowDown", "ArrowDown", "ArrowDown", " ")
    page.wait("document.getElementById('spoken').textContent.startsWith('It takes this for')")
    assert page.js("document.getElementById('hint').hidden")


def test_no_stroke_goes_on_in_another_picture(page):
    """A picture that comes while the pen is down, and "Delete" while a finger draws, end the stroke."""
    page.click("clear")
    before = len(page.complaints())
    page.js("document.getElementById('pad').focus()")
    page.press("ArrowUp", " ")
    page.js("showImage(new ImageData(8, 8))")
    page.press("ArrowDown")
    assert page.js("[pen.isDown, strokes.length]") == [False, 0]
    seen = page.js("document.getElementById('pad').toDataURL()")
    page.js("document.getElementById('pad').blur()")
    assert page.js("document.getElementById('pad').toDataURL()") != seen  # the picture again, without a pen
    page.js("document.getElementById('pad').focus()")
    left, top, width, height = page.middle("pad")
    for kind, share in (("mousePressed", 0.2), ("mouseMoved", 0.4), ("mouseMoved", 0.6), ("mouseReleased", 0.6)):
        at = {"x": left + width * share, "y": top + height / 2, "button": "left", "buttons": 1, "clickCount": 1}
        page.browser.call("Input.dispatchMouseEvent", {"type": kind, **at})
        if share == 0.4:
            page.press("Delete")
    assert (page.js("strokes.length"), page.text("label"), page.shares()) == (0, "–", [])
    assert page.complaints()[before:] == []


def test_a_file_that_is_read_slowly_does_not_take_the_place_of_what_came_after_it(page):
    page.click("clear")
    page.js(
        "globalThis.read = createImageBitmap, globalThis.createImageBitmap = async (...given) => {"
        "await new Promise(done => globalThis.go = done); return read(...given); }, 0"
    )
    own = "new OffscreenCanvas(8, 8)"
    page.js(f"(canvas => (canvas.getContext('2d'), canvas.convertToBlob()))({own})"
            ".then(blob => { globalThis.coming = showFile(blob); })")  # fmt: skip
    page.wait("typeof go === 'function'")
    page.draw("pad", [(0.5, 0.2), (0.5, 0.8)])
    page.js("go(), coming.then(() => { globalThis.createImageBitmap = read; })")
    assert page.js("[strokes.length, lastImage]") == [1, None]


def test_another_backend_forgets_what_was_told_of_the_one_before(page):
    """Its verdict and its times; nothing is answered to a picture that was cleared away, and what runs is shown."""
    page.click("prove")
    page.wait("!document.getElementById('verdict').hidden")
    page.click("clear")
    page.js("Object.defineProperty(navigator, 'gpu', {value: undefined, configurable: true}), 0")
    page.js("(choice => (choice.value = 'webgpu', choice.dispatchEvent(new Event('change')), 0))"
            "(document.getElementById('backend'))")  # fmt: skip
    page.wait("!document.getElementById('backend').disabled && !busy")
    page.js("delete navigator.gpu")
    assert page.js("document.getElementById('backend').value") == "wasm"
    assert page.text("state").endswith("this browser has no WebGPU.")
    assert page.js("document.getElementById('verdict').hidden")
    assert (page.text("p50"), page.text("runs"), page.text("course")) == ("–", "", "")
    assert (page.text("label"), page.shares()) == ("–", [])


def test_the_map_follows_the_place_that_is_looked_from(page, deployed):
    """From a bright place this head attends to bright ones; a screen reader is told the same."""
    page.js("document.querySelector('#samples button, #clear').click()")
    page.js("document.getElementById('seen').focus()")
    page.press(*["ArrowUp"] * 8, *["ArrowLeft"] * 8)
    page.wait("document.getElementById('told').textContent.startsWith('From row 1, column 1:')")
    page.press("ArrowRight")
    page.wait("document.getElementById('told').textContent.startsWith('From row 1, column 2:')")
    assert page.js(f"document.querySelector('#maps canvas').dataset.output === {OUTPUT!r}")
    assert "uniform" in page.text("ticks")


def test_golden_vectors_are_asked_in_this_very_browser(page):
    page.click("prove")
    page.wait("!document.getElementById('verdict').hidden")
    assert page.text("verdict").startswith(
        "Yes, the same numbers. 4 pictures, 40 numbers; the largest difference is "
    )
    assert page.js("document.getElementById('verdict').className") == "verdict good"


def test_nothing_compared_is_nothing_proved(page):
    page.js("globalThis.known = golden, golden = golden.map(({ input }) => ({ input, outputs: {} })), 0")
    page.click("prove")
    page.wait("!document.getElementById('trouble').hidden")
    page.js("golden = known, 0")
    assert page.text("trouble") == "That did not work. There is no known answer here that could be compared."


def test_latency_is_told(page):
    page.click("again")
    page.wait("!document.getElementById('again').disabled")
    assert page.js("document.querySelectorAll('#course svg').length") == 1
    assert "p50" in page.text("runs")


def test_another_kind_of_file_is_said_on_the_page(page, tmp_path):
    (tmp_path / "letter.txt").write_text("no picture")
    page.drop(tmp_path / "letter.txt")
    page.wait("!document.getElementById('trouble').hidden")
    assert page.js("(box => box.top >= 0 && box.bottom <= innerHeight)"
                   "(document.getElementById('trouble').getBoundingClientRect())")  # fmt: skip
    assert page.text("trouble").startswith("That did not work. letter.txt cannot be read as a picture; JPEG, PNG,")


def test_it_fits_on_a_phone_in_the_dark_and_no_request_leaves_it(page):
    page.browser.call(
        "Emulation.setDeviceMetricsOverride", {"width": 390, "height": 844, "deviceScaleFactor": 1, "mobile": True}
    )
    dark = {"name": "prefers-color-scheme", "value": "dark"}
    page.browser.call("Emulation.setEmulatedMedia", {"features": [dark]})
    assert page.js("document.documentElement.scrollWidth") == 390
    assert page.js("getComputedStyle(document.body).backgroundColor") == "rgb(15, 20, 26)"
    own = page.js("location.origin")
    assert all(url.startswith((own, "data:", "blob:", "file:")) for url in page.asked())
    refused = (
        "new Promise(done => { addEventListener('securitypolicyviolation', event => done(event.effectiveDirective));"
        "fetch('https://example.org').catch(() => setTimeout(done, 1000, 'nobody refused it')); })"
    )
    assert page.js(refused) == "connect-src"  # the policy, and not the want of a network
    assert [said for said in page.complaints() if "Content Security Policy" not in str(said)] == []


def test_every_file_is_asked_for_once_and_what_was_checked_is_what_runs(deployed, page):
    class Asked(dict):
        """The runtime's script becomes another one as soon as it was handed out."""

        count = 0

        def get(self, name, default=None):
            if name.endswith(".mjs"):
                self.count += 1
                if self.count > 1:
                    return b"document.title = 'not the checked script'"
            return super().get(name, default)

    files = Asked(files_in(deployed[1]))
    with serving(files) as url:
        page.visit(url)
    assert "model checked" in page.text("state")
    assert page.js("document.title") == "digits: try it"
    assert files.count == 1
    asked = [address for address in page.asked() if address.startswith(url)]
    assert len(asked) == len(set(asked)) > 5


def test_an_old_browser_is_told_what_it_lacks(deployed, page):
    without = {"source": "WebAssembly.validate = () => false"}
    script = page.browser.call("Page.addScriptToEvaluateOnNewDocument", without)
    with serving(files_in(deployed[1])) as url:
        page.visit(url)
    page.browser.call("Page.removeScriptToEvaluateOnNewDocument", script)
    assert "its WebAssembly lacks SIMD" in page.text("trouble")


def test_a_changed_model_is_not_run(deployed, page):
    files = dict(files_in(deployed[1]))
    files["model.onnx"] = files["model.onnx"].read_bytes() + b"\x1a\x00"
    with serving(files) as url:
        page.visit(url)
        assert page.text("state") == "The network does not run here."
        assert "model.onnx is not the file that was written with this page" in page.text("trouble")
        assert page.js("document.getElementById('app').hidden")


@pytest.mark.slow
def test_a_large_model_runs_in_threads_out_of_what_was_checked(deployed, runtime, tmp_path, monkeypatch):
    """The site's own policy lets them start, and none of them asks for a file; to this page any model is large."""
    from aaexport.report.site import site

    own = site._read
    monkeypatch.setattr(site, "_read", lambda name: own(name).replace("SMALL = 2 ** 22;", "SMALL = 0;"))
    files = site_files(read_facts(deployed[0]), Site(runtime))
    digest = hashlib.sha256(files["site.json"].encode()).hexdigest()
    written = write(files | page_files("digits", "", digest), tmp_path / "site")
    cores = "Object.defineProperty(Navigator.prototype, 'hardwareConcurrency', {get: () => 2})"
    with serving(files_in(written)) as url, Browser(WITHOUT_GPU) as browser:
        browser.call("Page.addScriptToEvaluateOnNewDocument", {"source": cores})
        page = Page(browser)
        page.visit(url)
        assert "Runs in WebAssembly in 2 threads, on this device" in page.text("state")
        page.click("prove")
        page.wait("!document.getElementById('verdict').hidden")
        assert page.text("verdict").startswith("Yes, the same numbers. ")
        assert page.complaints() == []
        asked = [address for address in page.asked() if address.startswith(url)]
        assert len(asked) == len(set(asked))


@pytest.mark.slow
def test_a_photograph_is_cropped_and_resized_as_in_training(page, runtime, tmp_path, rng):
    from PIL import Image

    folder = digits_folder(tmp_path / "photos", shape=(3, 12, 16))
    aaexport.deploy(folder, "web", tmp_path / "site")
    file = tmp_path / "photo.png"
    Image.fromarray(rng.integers(0, 256, (97, 75, 3), dtype=np.uint8)).save(file)
    with serving(files_in(tmp_path / "site")) as url:
        page.visit(url)
        assert page.js("document.getElementById('look').hidden && document.getElementById('samples').hidden")
        page.drop(file)
        page.wait("document.querySelectorAll('#bars meter').length")
    image = read_facts(folder).image
    fed = network_input(file.read_bytes(), image.shape, image.mean, image.std, image.crop_share, 10**6)
    np.testing.assert_allclose(page.shares(), softmax(fed.reshape(-1)[:10].astype(np.float64)), atol=EXACT)


@pytest.mark.slow
@pytest.mark.parametrize("dtype", ["int8", "float16"])
def test_a_file_in_fewer_bits_says_what_it_lost(page, runtime, tmp_path, dtype):
    folder = folder_in_fewer_bits(tmp_path / "small")
    result = aaexport.deploy(folder, "web", tmp_path / "site", dtype=dtype)
    assert result.passed and "browser" in {check.name for check in result.checks}
    with serving(files_in(tmp_path / "site")) as url:
        page.visit(url)
        assert page.js("document.getElementById('trouble').hidden"), page.text("trouble")
        assert page.text("proof-title") == "How close to PyTorch?"
        assert page.text("record").startswith(f"This network computes in {dtype}, so its numbers are not PyTorch’s")
        page.click("prove")
        page.wait("!document.getElementById('verdict').hidden")
        assert page.text("verdict").startswith("Yes, this file answers here as it did where it was made. ")


@pytest.mark.slow
@pytest.mark.parametrize("width", [390, 1280])
def test_names_of_any_length_leave_room_for_the_bars(runtime, tmp_path, width):
    if find_browser() is None:
        pytest.skip("no chromium or chrome is on the PATH: no page is run")
    facts = read_facts(observed_folder(tmp_path / "digits"))
    long = ["great white shark, white shark, man-eater, man-eating shark", "Supercalifragilistic" * 4, "\u202eabc"]
    image = replace(facts.image, labels=(*long, *map(str, range(7))))
    files = site_files(replace(facts, image=image), Site(runtime, description="W" * 300))
    digest = hashlib.sha256(files["site.json"].encode()).hexdigest()
    written = write(files | page_files("digits", "W" * 300, digest), tmp_path / "site")
    with opened(files_in(written)) as page:
        on_screen(page.browser, width, "light")
        page.draw("pad", [(0.5, 0.2), (0.5, 0.8)])
        page.wait("document.querySelectorAll('#bars meter').length")
        assert page.js("document.documentElement.scrollWidth") == width
        assert page.js("document.querySelector('#bars meter').getBoundingClientRect().width") >= 75


# The zoo's own network


@pytest.fixture(scope="module")
def digits(tmp_path_factory, runtime):
    """(folder, site) of aa_cnn3_digits as it was trained."""
    if find_browser() is None:
        pytest.skip("no chromium or chrome is on the PATH: no page is run")
    room = tmp_path_factory.mktemp("digits")
    folder = checkout("aa_cnn3_digits", room / "aa_cnn3_digits")
    aaexport.convert(folder)
    result = aaexport.deploy(folder, "web", room / "site")
    assert sum(result.files.values()) <= LARGEST
    return folder, room / "site"


@pytest.mark.slow
def test_probabilities_and_attention_are_those_of_pytorch(digits, tmp_path, rng):
    import torch
    from PIL import Image

    folder, site = digits
    file = tmp_path / "scan.png"
    Image.fromarray(rng.integers(0, 256, (23, 31), dtype=np.uint8)).save(file)
    image = read_facts(folder).image
    fed = network_input(file.read_bytes(), image.shape, image.mean, image.std, image.crop_share, 10**6)
    outputs, weights = outputs_and_attention(aaexport.build_model(folder), torch.from_numpy(fed))
    with opened(files_in(site)) as page:
        before = page.js(SHARES)
        page.drop(file)
        page.wait(f"{SHARES} != {json.dumps(before)}")
        np.testing.assert_allclose(page.shares(), outputs[0].softmax(0), atol=EXACT)
        page.js("document.getElementById('seen').focus()")
        page.press(*["ArrowUp"] * 8, *["ArrowLeft"] * 8)
        layer, head = page.js(
            "document.querySelector('#maps canvas').dataset.output.match(/attention.(.*).head(.*)/).slice(1)"
        )
        seen = weights[layer][0, int(head), 0, 0]
        row, column = np.unravel_index(int(seen.argmax()), seen.shape)
        told = page.js("document.querySelector('#maps canvas').getAttribute('aria-label')")
        assert (
            f"counts row {row + 1}, column {column + 1} most, {float(seen.max()) * seen.numel():.3g} × as much"
            in told
        )


@pytest.mark.slow
@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [390, 1280])
def test_axe_has_nothing_to_complain_of(digits, scheme, width):
    with opened(files_in(digits[1])) as page:
        on_screen(page.browser, width, scheme)
        page.click("prove")
        page.wait("!document.getElementById('verdict').hidden")
        assert axe_violations(page.browser) == []


@pytest.mark.slow
def test_webgpu_computes_the_same_on_the_page(digits):
    """Chosen by hand: one that the processor imitates is not taken by itself, and the page says why."""
    with opened(files_in(digits[1]), WITH_WEBGPU) as page:
        assert "its WebGPU is only imitated by the processor here" in page.text("state")
        choose = "choice.value = 'webgpu', choice.dispatchEvent(new Event('change'))"
        page.js(f"(choice => ({choose}))(document.getElementById('backend'))")
        page.wait(
            "document.getElementById('state').textContent.includes('Runs in WebGPU')", patience=PATIENCE_OF_SHADERS
        )
        page.wait("!document.getElementById('backend').disabled", patience=PATIENCE_OF_SHADERS)
        page.click("prove")
        page.wait("!document.getElementById('verdict').hidden", patience=PATIENCE_OF_SHADERS)
        assert page.text("verdict").startswith("Yes, the same numbers.")


# Browsers that lack something, for real: Chromium's own switches take it away

CAMERA = (*WITHOUT_GPU, "--use-fake-device-for-media-stream", "--use-fake-ui-for-media-stream")
DEAF = (*WITHOUT_GPU, "--js-flags=--no-enable-sse4-1")  # V8 has no SIMD in WebAssembly without it
PAGES_OF_MEMORY = "--js-flags=--wasm-max-mem-pages"  # of 64 KiB


@pytest.mark.slow
def test_a_browser_without_simd_says_so(deployed):
    with opened(files_in(deployed[1]), DEAF) as page:
        assert page.text("state") == "The network does not run here."
        assert "its WebAssembly lacks SIMD" in page.text("trouble")
        assert page.js("document.getElementById('app').hidden")


@pytest.mark.slow
@pytest.mark.parametrize("pages", [100, 600], ids=["too few to begin", "too few for the model"])
def test_a_browser_that_has_too_little_memory_says_so(runtime, tmp_path, pages):
    if find_browser() is None:
        pytest.skip("no chromium or chrome is on the PATH: no page is run")
    folder = digits_folder(tmp_path / "heavy")
    add_ballast(folder.onnx_path, 6_000_000)
    facts = read_facts(folder)
    files = site_files(facts, Site(runtime))
    digest = hashlib.sha256(files["site.json"].encode()).hexdigest()
    written = write(files | page_files("heavy", "", digest), tmp_path / "site")
    with opened(files_in(written), (*WITHOUT_GPU, f"{PAGES_OF_MEMORY}={pages}")) as page:
        assert page.text("state") == "The network does not run here."
        assert page.text("trouble") == (
            "That did not work. The network cannot be loaded here: this browser has too little memory for it."
        )


def add_ballast(path, numbers):
    """A product with so many zeros, which changes no answer, and which no optimizer can know to be nothing."""
    model = onnx.load(path)
    model.graph.node[-1].output[0] = "few"
    zeros = np.zeros((10, numbers // 10), np.float32)
    model.graph.initializer.append(onnx.numpy_helper.from_array(zeros, "ballast"))
    model.graph.node.extend(
        [
            onnx.helper.make_node("MatMul", ["few", "ballast"], ["wide"]),
            onnx.helper.make_node("ReduceMax", ["wide"], ["nothing"], keepdims=1),
            onnx.helper.make_node("Add", ["few", "nothing"], ["logits"]),
        ]
    )
    onnx.save(model, path)


@pytest.mark.slow
def test_what_lies_beside_the_file_may_have_any_name(deployed, tmp_path):
    folder = digits_folder(tmp_path / "digits")
    add_ballast(folder.onnx_path, 6_000)
    model = onnx.load(folder.onnx_path)
    beside = {"save_as_external_data": True, "location": "model #1 100%?.data", "size_threshold": 0}
    onnx.save(model, folder.onnx_path, **beside)
    assert (tmp_path / "digits" / beside["location"]).is_file()
    result = aaexport.deploy(folder, "web", tmp_path / "site")
    assert "browser" in {check.name for check in result.checks}
    with WebRunner(folder.onnx_path) as runner:
        assert runner.infer({"input": np.zeros((1, 1, 8, 8), np.float32)})["logits"].shape == (1, 10)


@pytest.mark.slow
def test_what_the_camera_sees_is_shown(deployed):
    with opened(files_in(deployed[1]), CAMERA) as page:
        before = page.js(SHARES)
        page.click("camera")
        page.wait("document.getElementById('shot').open && document.getElementById('video').videoWidth")
        page.click("take")
        page.wait(f"{SHARES} != {json.dumps(before)}")
        assert not page.js("document.getElementById('shot').open")
        assert page.js(
            "document.getElementById('video').srcObject.getTracks().every(track => track.readyState == 'ended')"
        )
        assert sum(page.shares()) == pytest.approx(1, abs=EXACT)
        page.click("camera")
        page.wait("document.getElementById('shot').open")
        page.click("close")
        assert not page.js("document.getElementById('shot').open")
        assert page.complaints() == []


@pytest.mark.slow
def test_no_camera_stays_open(deployed):
    """Two clicks open one, a picture is waited for, and who leaves the tab is not filmed."""
    counted = (
        "streams = []; (ask => navigator.mediaDevices.getUserMedia = async what => {"
        "const found = await ask(what); streams.push(found); return found; })"
        "(navigator.mediaDevices.getUserMedia.bind(navigator.mediaDevices))"
    )
    ended = "streams.every(stream => stream.getTracks().every(track => track.readyState == 'ended'))"
    with opened(files_in(deployed[1]), CAMERA) as page:
        page.js(f"globalThis.{counted};0")
        before = page.js(SHARES)
        page.js("document.getElementById('camera').click(), document.getElementById('camera').click()")
        page.wait("document.getElementById('shot').open")
        page.click("take")  # before its first frame, or not: it is taken once
        page.wait(f"{SHARES} != {json.dumps(before)}")
        assert page.js("streams.length") == 1
        assert page.js(ended)
        page.click("camera")
        page.wait("document.getElementById('shot').open")
        page.js("Object.defineProperty(document, 'hidden', {value: true}),"
                "document.dispatchEvent(new Event('visibilitychange'))")  # fmt: skip
        assert page.js(f"streams.length == 2 && {ended}")
        assert not page.js("document.getElementById('shot').open")
        assert page.complaints() == []


@pytest.mark.slow
def test_without_a_camera_that_is_said(deployed):
    with opened(files_in(deployed[1])) as page:
        page.click("camera")
        page.wait("!document.getElementById('trouble').hidden")
        assert page.text("trouble").startswith("That did not work. The camera cannot be used: ")


@pytest.mark.slow
def test_a_pasted_picture_is_seen_as_in_training(deployed, rng):
    """Copied and pasted by the keys, through the browser's own clipboard."""
    from PIL import Image

    content = io.BytesIO()
    Image.fromarray(rng.integers(0, 256, (29, 41, 3), dtype=np.uint8)).save(content, "PNG")
    image = read_facts(deployed[0]).image
    fed = network_input(content.getvalue(), image.shape, image.mean, image.std, image.crop_share, 10**6)
    with opened(files_in(deployed[1])) as page:
        before = page.js(SHARES)
        page.copy(content.getvalue())
        page.paste()
        page.wait(f"{SHARES} != {json.dumps(before)}")
        np.testing.assert_allclose(page.shares(), softmax(fed.reshape(-1)[:10].astype(np.float64)), atol=EXACT)


# What no browser could run is refused first of all


@pytest.mark.parametrize(
    ("spoil", "complaint"),
    [
        (lambda patch, _: patch.setattr(web, "MOST_BYTES", 100), "model must be at most 100 bytes for a browser"),
        (lambda _, path: somebody_elses(path), "operators that onnxruntime-web knows, got 'somebody.else.Reshape'"),
    ],
)
def test_a_model_that_no_browser_could_run_is_refused_before_anything(tmp_path, monkeypatch, cli, spoil, complaint):
    folder, package = digits_folder(tmp_path / "digits"), fake_runtime(tmp_path / "package")
    spoil(monkeypatch, folder.onnx_path)
    asked = ("--to", "web", "--out", tmp_path / "site", "--runtime-files", package)
    outcome = cli("deploy", folder.path, *asked)
    assert complaint in error_of(outcome, 3)
    assert "exporting" not in outcome.err
    assert not (tmp_path / "site").exists()
