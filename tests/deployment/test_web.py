"""What a web page needs of a model: every file listed, checked, and refused where a browser could not run it."""

import gzip
import json
from dataclasses import replace

import pytest
from deployable import digits_facts, edit, failed, somebody_elses, write
from observed import OUTPUT, observed_folder
from pages import fake_runtime
from safetensors.numpy import load

from aaexport.deployment import web
from aaexport.deployment.compared import Compared
from aaexport.deployment.web import Site, attention_of, check, site_files
from aaexport.errors import DeploymentError, FolderError
from aaexport.report.page.markup import escape
from aaexport.report.site.site import page_files
from aaexport.runners.web_runtime import find_runtime
from aaexport.serving.reading import read_facts


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    return Site(find_runtime(fake_runtime(tmp_path_factory.mktemp("npm") / "package")), "Ten digits")


@pytest.fixture
def written(facts, site, tmp_path):
    return write(whole(facts, site), tmp_path / "site")


def whole(facts, site):
    files = site_files(facts, site)
    digest = web.hashlib.sha256(files[web.ABOUT].encode()).hexdigest()
    return files | page_files(facts.name, site.description, digest)


def test_a_site_holds_all_that_its_page_asks_for(written, facts):
    assert failed(check(written)) == {}
    about = json.loads((written / "site.json").read_text())
    assert about["labels"] == [str(digit) for digit in range(10)]
    assert (about["input"], about["scores"], about["shape"]) == ("input", "logits", [1, 8, 8])
    assert about["onnx_sha256"] == about["files"]["model.onnx"]["sha256"] == facts.onnx_sha256
    packed = (written / about["runtime"]["wasm"]["binary"]).read_bytes()
    assert gzip.decompress(packed) == b"ort-wasm-simd-threaded.wasm\n"
    assert len((written / "README.md").read_text().split("\n\n")) == 5


def test_golden_vectors_are_asked_image_by_image(written, facts):
    tensors = load((written / "golden.safetensors").read_bytes())
    assert len(tensors) == 2 * facts.golden[0].batch
    assert (tensors["3.input.input"] == facts.golden[0].inputs["input"][3:]).all()
    assert (tensors["3.output.logits"] == facts.golden[0].outputs["logits"][3:]).all()


def test_the_same_model_gives_the_same_files(facts, site):
    assert whole(facts, site) == whole(facts, site)


@pytest.mark.parametrize(
    ("record", "told"),
    [
        (None, None),
        (
            Compared(2e-6, "2026-01-31T09:30:00Z", ("held-out images", "made-up ones")),
            {
                "largest_error": 2e-6,
                "date": "2026-01-31T09:30:00Z",
                "told": "On 2026-01-31 this network was compared with PyTorch on held-out images and made-up ones: "
                "no number was further off than 2.0e-6.",
            },
        ),
        (
            Compared(None, None, ("made-up images",)),
            {
                "largest_error": None,
                "date": None,
                "told": "Before this page was made this network was compared with PyTorch on made-up images: its "
                "numbers stayed within what is allowed.",
            },
        ),
    ],
)
def test_a_page_tells_no_parity_but_of_its_own_file(facts, site, record, told):
    assert json.loads(site_files(facts, replace(site, record=record))["site.json"])["record"] == told


def test_attention_is_known_by_its_outputs(tmp_path):
    folder = observed_folder(tmp_path / "seen")
    assert attention_of(read_facts(folder)) == [
        {"output": OUTPUT, "layer": "features.0", "head": 0, "height": 8, "width": 8}
    ]


@pytest.mark.parametrize(
    ("file", "old", "new", "name", "found"),
    [
        ("index.html", "default-src &#x27;none&#x27;; ", "", "page", "the policy must be"),
        ("index.html", "<footer>", "<script>1</script><footer>", "page", "no script or style in the page itself"),
        ("site.js", '"use strict";', "", "page", "site.js must be what index.html holds it to"),
        ("site.json", '"digits"', '"digit"', "site", "site.json must be the one that index.html names"),
        ("runtime/ort.wasm.bundle.min.mjs", "ort", "art", "site", "ort.wasm.bundle.min.mjs must be the file of"),
    ],
)
def test_a_changed_site_fails_its_check(written, file, old, new, name, found):
    edit(written / file, old, new)
    assert found in failed(check(written))[name]


def test_a_broken_list_of_files_is_a_finding(written):
    (written / "site.json").write_text("[]")
    assert "site" in failed(check(written))


@pytest.mark.parametrize(
    "words",
    [
        "a net with only=3 heads and onclick=x",
        "{{about_sha256}} and {{policy}}",
        "</script><script>alert(1)</script>",
        '" onload="x',
        "\u202eright to left\u200f <style>",
        "W" * 400,
        "javascript:alert(1)",
    ],
)
def test_whatever_somebody_wrote_is_text(facts, site, tmp_path, words):
    """Of a description, and of a label: it is shown, and neither run nor taken for a fault of the page."""
    image = replace(facts.image, labels=(words, *facts.image.labels[1:]))
    files = whole(replace(facts, image=image), replace(site, description=words))
    root = write(files, tmp_path / "site")
    assert failed(check(root)) == {}
    assert escape(words) in files["index.html"]
    assert json.loads(files["site.json"])["labels"][0] == words


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("<body>", '<body onload="x()">'),
        ("<main>", "<main onclick=x()>"),
        ("<main>", "<main STYLE='color:red'>"),
        ("<main>", "<style>p{}</style><main>"),
        ("<main>", '<a href=" JavaScript:x()">x</a><main>'),
        ("<main>", "<iframe srcdoc='x'></iframe><main>"),
        ("<head>", '<head><base href="https://example.org/">'),
    ],
)
def test_what_would_run_in_the_page_itself_is_found(written, old, new):
    edit(written / "index.html", old, new)
    assert "no script or style in the page itself" in failed(check(written))["page"]


def test_another_script_or_policy_is_found(written):
    edit(written / "index.html", "<main>", '<script src="other.js"></script><main>')
    assert "site.js must be what index.html holds it to" in failed(check(written))["page"]
    edit(written / "index.html", "<head>", '<head><meta http-equiv="Content-Security-Policy" content="x">')
    assert "the policy must be" in failed(check(written))["page"]


def test_names_are_no_markup(facts, site):
    files = page_files("<b>", '"><script>', "0")
    assert "<b>" not in files["index.html"]
    assert "<script>" not in files["index.html"]


def test_what_a_browser_could_not_run_is_refused(facts, site, tmp_path, monkeypatch):
    with pytest.raises(FolderError, match="model must take one image of 1 or 3 channels and tell classes"):
        site_files(replace(facts, image=None), site)
    with pytest.raises(FolderError, match="model must have golden vectors for the proof on its page"):
        site_files(replace(facts, golden=()), site)
    monkeypatch.setattr(web, "MOST_BYTES", 100)
    with pytest.raises(DeploymentError, match=r"model must be at most 100 bytes for a browser.*float16 or int8"):
        site_files(facts, site)


def test_an_operator_that_the_runtime_lacks_is_named(site, tmp_path):
    facts = digits_facts(tmp_path / "odd")
    somebody_elses(facts.onnx)
    with pytest.raises(DeploymentError, match=r"operators that onnxruntime-web knows, got 'somebody\.else\.Reshape'"):
        site_files(facts, site)
