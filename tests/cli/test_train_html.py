"""`aaexport train` writes train.html after every epoch, into every folder, and goes on where it cannot."""

import json

import pytest
from training_recipes import first_images, one_thread, write_plain_recipe, write_recipe

from aaexport.cli.training_page import TrainingPage
from aaexport.report import training_page
from aaexport.training import run
from aaexport.training.run import Run

CHANGES = {"epochs": "2", "batch_size": "96"}


@pytest.fixture(scope="module", autouse=True)
def quick():
    with one_thread(), pytest.MonkeyPatch.context() as patch:
        patch.setattr(run, "load_images", first_images(train=192, test=64))
        yield


@pytest.fixture
def tiny(tmp_path):
    return write_recipe(tmp_path / "tiny", **CHANGES)


def test_an_interrupted_training_has_its_page_and_a_resumed_one_goes_on_with_it(cli, tiny, monkeypatch):
    own = Run.train_epoch

    def interrupted(self, epoch):
        if epoch == 2:
            raise KeyboardInterrupt
        own(self, epoch)

    monkeypatch.setattr(Run, "train_epoch", interrupted)
    assert cli("train", tiny.path, "--device", "cpu").code == 130
    page = tiny.training_page_path.read_text(encoding="utf-8")
    assert "tiny: 1 of 2 epochs" in page
    monkeypatch.setattr(Run, "train_epoch", own)
    outcome = cli("train", tiny.path, "--device", "cpu", "--resume")
    assert outcome.code == 0
    assert f"wrote {tiny.training_page_path}" in outcome.err
    page = tiny.training_page_path.read_text(encoding="utf-8")
    assert "Not finished" not in page
    assert "over 2 epochs" in page
    assert page.count('aria-label="before training, head 0:') == page.count('aria-label="epoch 2, head 0:') == 3
    manifest = json.loads(tiny.manifest_path.read_text(encoding="utf-8"))
    assert manifest["files"]["train.html"]["bytes"] == tiny.training_page_path.stat().st_size


def test_a_comparison_has_one_page_in_both_folders(cli, tmp_path):
    pair = [write_plain_recipe(tmp_path / "conv", **CHANGES), write_recipe(tmp_path / "aa", **CHANGES)]
    outcome = cli("train", *(folder.path for folder in pair), "--compare", "--device", "cpu", "--json")
    assert outcome.code == 0
    json.loads(outcome.out)
    pages = [folder.training_page_path.read_text(encoding="utf-8") for folder in pair]
    assert pages[0] == pages[1]
    assert "<h1>conv and aa</h1>" in pages[0]
    assert outcome.err.count("wrote ") == 2


def test_a_page_that_cannot_be_drawn_is_said_once_and_ends_no_training(cli, tiny, monkeypatch):
    def broken(*given):
        raise ZeroDivisionError("no such number")

    monkeypatch.setattr(training_page, "training_page", broken)
    outcome = cli("train", tiny.path, "--device", "cpu")
    assert outcome.code == 0
    assert outcome.err.count("note: train.html was not written, the training goes on: no such number") == 1
    assert "wrote" not in outcome.err
    assert tiny.weights_path.is_file()
    assert not tiny.training_page_path.exists()


def test_a_page_that_cannot_be_written_is_said(cli, tiny):
    tiny.training_page_path.mkdir()
    outcome = cli("train", tiny.path, "--device", "cpu")
    assert outcome.code == 0
    assert outcome.err.count("note: train.html was not written, the training goes on: ") == 1
    assert "train.html cannot be written" in outcome.err


def test_somebody_elses_page_of_that_name_stays(cli, tiny):
    tiny.training_page_path.write_text("mine")
    outcome = cli("train", tiny.path, "--device", "cpu")
    assert outcome.code == 0
    assert "train.html was not written, the training goes on: train.html must name a new file or a" in outcome.err
    assert tiny.training_page_path.read_text() == "mine"


def test_each_reason_is_said(monkeypatch):
    reasons, said = ["one", "one", "two"], []
    page = TrainingPage([], said.append)
    for reason in reasons:
        monkeypatch.setattr(page, "_write", lambda result, reason=reason: (_ for _ in ()).throw(OSError(reason)))
        page(None)
    assert [line.rpartition(": ")[2] for line in said] == ["one", "two"]
