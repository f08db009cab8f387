"""A folder → a conversion that is ready to be served, without a service."""

import pickle
import signal
import subprocess
from dataclasses import replace

import numpy as np
import onnx
import pytest
from live_services import give_golden
from onnx import numpy_helper

from aaexport.errors import FolderError, GraphError, ParityError, RunnerError
from aaexport.pipeline.serve.child import Preparation, prepare_apart, waiting_to_prepare
from aaexport.pipeline.serve.order import Order
from aaexport.pipeline.serve.prepare import prepare
from aaexport.serving import apart
from aaexport.serving.versions import (
    Served,
    Version,
    holding,
    read_served,
    served_folder,
    version_folder,
    write_served,
)


def order(folder, **changes):
    wanted = {"dtype": "float32", "device": "cpu", "threads": 1, "instances": 1, "max_batch": 2}
    return Order(folder=folder.path, keep=folder.path, **wanted | changes)


def record(folder, prepared):
    with holding(folder.path):
        write_served(folder.path, read_served(folder.path).with_current(prepared.version))


def test_what_is_served_is_a_copy_that_a_later_conversion_does_not_touch(converted):
    give_golden(converted)
    before = converted.onnx_path.read_bytes()
    prepared = prepare(order(converted))
    converted.onnx_path.write_bytes(b"half a file")
    assert prepared.facts.onnx.read_bytes() == before
    assert (prepared.facts.name, prepared.version.number, prepared.threads) == ("tiny", 1, 1)
    assert prepared.version.onnx_sha256 == prepared.facts.onnx_sha256
    assert prepared.notes == ()


def test_golden_vectors_are_made_from_the_weights_where_there_are_none(converted):
    from aaexport.pipeline.subject.subject import as_subject

    prepared = prepare(order(converted))
    assert any("golden vectors were made from its weights" in note for note in prepared.notes)
    assert not converted.golden_path.exists()
    (query,) = prepared.facts.golden
    import torch

    with torch.no_grad():
        expected = as_subject(converted).module(torch.from_numpy(query.inputs["input"].copy())).numpy()
    np.testing.assert_array_equal(query.outputs["logits"], expected)


def test_golden_vectors_of_float32_are_asked_of_a_session_without_tf32(converted, monkeypatch):
    from aaexport.runners import ort

    asked = []

    class OnTheCpu(ort.OrtRunner):
        def __init__(self, model, settings, *, device):
            asked.append((device, settings.tf32))
            super().__init__(model, settings)

    give_golden(converted)
    monkeypatch.setattr(ort, "OrtRunner", OnTheCpu)
    prepare(order(converted, device="cuda"))
    assert asked == [("cuda", False)]
    monkeypatch.setattr("aaexport.pipeline.serve.prepare.why_wrong", lambda *asked: "another number")
    with pytest.raises(ParityError, match=r"got another number; run `aaexport verify \S+ --device cuda`$"):
        prepare(order(converted, device="cuda"))


def test_without_golden_vectors_and_weights_nothing_is_served(converted):
    converted.weights_path.unlink()
    with pytest.raises(FolderError, match="must have golden vectors, or weights to make them from, got"):
        prepare(order(converted))
    assert sorted(path.name for path in served_folder(converted.path).iterdir()) == [".lock"]


def spoil(folder):
    """Another network's numbers in the file, as if it had been converted anew."""
    model = onnx.load(folder.onnx_path)
    tensor = max(model.graph.initializer, key=lambda tensor: len(tensor.raw_data))
    tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor) * np.float32(2), tensor.name))
    onnx.save(model, folder.onnx_path)
    folder.write_manifest()


def test_a_file_that_answers_wrongly_is_not_served_and_leaves_nothing(converted):
    give_golden(converted)
    spoil(converted)
    with pytest.raises(ParityError, match="must answer its golden vectors, got logits off by") as raised:
        prepare(order(converted))
    assert sorted(path.name for path in served_folder(converted.path).iterdir()) == [".lock"]
    assert str(pickle.loads(pickle.dumps(raised.value))) == str(raised.value)


def test_a_file_that_the_manifest_does_not_record_is_not_served(converted):
    give_golden(converted)
    manifest = converted.manifest_path.read_bytes()
    spoil(converted)
    converted.manifest_path.write_bytes(manifest)
    with pytest.raises(FolderError, match=r"model\.onnx must be the file that manifest\.json records, got another"):
        prepare(order(converted))


def test_the_same_file_is_the_same_version_and_another_file_the_next(converted):
    give_golden(converted)
    record(converted, prepare(order(converted)))
    assert prepare(order(converted)).version.number == 1
    spoil(converted)
    give_golden(converted)
    converted.write_manifest()
    assert prepare(order(converted)).version.number == 2


def test_a_file_that_was_gone_back_from_is_not_taken_again(converted):
    give_golden(converted)
    record(converted, prepare(order(converted)))
    spoil(converted)
    give_golden(converted)
    converted.write_manifest()
    record(converted, prepare(order(converted)))
    write_served(converted.path, read_served(converted.path).gone_back())
    prepared = prepare(order(converted))
    assert prepared.version.number == 1
    way = f"`aaexport serve --rollback --to-version 2 {converted.path}` takes it again"
    assert prepared.notes == (f"{converted.path}: version 1 is served: model.onnx was gone back from; {way}",)
    write_served(converted.path, read_served(converted.path).gone_to(2))
    assert prepare(order(converted)).version.number == 2


def test_a_version_that_was_chosen_over_an_older_file_is_served_at_the_next_start_too(converted):
    give_golden(converted)
    older = converted.onnx_path.read_bytes()
    record(converted, prepare(order(converted)))
    spoil(converted)
    give_golden(converted)
    record(converted, prepare(order(converted)))
    converted.onnx_path.write_bytes(older)  # put back
    give_golden(converted)
    converted.write_manifest()
    record(converted, prepare(order(converted)))
    assert read_served(converted.path).current == 1
    write_served(converted.path, read_served(converted.path).gone_to(2))
    prepared = prepare(order(converted))
    record(converted, prepared)
    assert prepared.version.number == prepare(order(converted)).version.number == 2
    way = f"`aaexport serve --rollback --to-version 1 {converted.path}` takes it again"
    assert f"model.onnx was an older one than what was chosen; {way}" in prepared.notes[0]


def test_where_what_was_gone_back_to_is_no_longer_kept_the_way_forward_is_said(converted):
    give_golden(converted)
    prepared = prepare(order(converted))
    newer = Version(2, prepared.version.onnx_sha256, prepared.version.taken)
    before = Served((replace(prepared.version, onnx_sha256="ab"), newer), 1, (newer.onnx_sha256,))
    write_served(converted.path, before)
    version_folder(converted.path, 1).rename(converted.path / "moved")
    with pytest.raises(FolderError, match=r"version 1 of .* must be kept in served/, got none; .*--to-version 2"):
        prepare(order(converted))


def test_a_kept_version_that_was_written_to_is_not_served(converted):
    give_golden(converted)
    prepared = prepare(order(converted))
    record(converted, prepared)
    with prepared.facts.onnx.open("ab") as file:
        file.write(b"\x9a\x06\x01x")  # an unknown field: it loads, and answers as before
    with pytest.raises(FolderError, match=r"model\.onnx must be the file of version 1, got one that was written to"):
        prepare(order(converted))


def test_a_precision_without_a_file_is_refused_with_those_there_are(converted):
    with pytest.raises(FolderError, match=r"dtype must be one that .* has a file of \(float32\), got 'float16'"):
        prepare(order(converted, dtype="float16"))


def test_a_process_of_its_own_tells_what_it_could_not_do(converted):
    converted.onnx_path.write_bytes(b"no model")
    with pytest.raises(GraphError, match="must be a whole ONNX file"):
        prepare_apart(order(converted))


def test_a_defect_in_a_process_of_its_own_is_one_line_here(capfd, monkeypatch):
    said = []
    monkeypatch.setattr(apart.log, "debug", lambda *words: said.append(words))
    preparation = apart.Apart("aaexport.pipeline.serve.child", "no order", "tiny must be read and run once")
    with pytest.raises(RunnerError) as raised:
        preparation.result()
    preparation.stop()
    cause = "unexpected AttributeError: 'str' object has no attribute 'folder'; this is a defect"
    assert str(raised.value) == f"tiny must be read and run once, but: {cause}, `aaexport -v` shows where"
    assert capfd.readouterr().err == ""
    assert "Traceback" in said[0][-1]


def test_where_no_thread_can_be_started_no_process_stays(monkeypatch):
    children, popen = [], subprocess.Popen

    def fails(thread):
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(
        subprocess, "Popen", lambda *words, **how: children.append(popen(*words, **how)) or children[0]
    )
    monkeypatch.setattr(apart.threading.Thread, "start", fails)
    with pytest.raises(RunnerError, match="room for one more process, got: can't start new thread"):
        apart.Apart("aaexport.pipeline.serve.child", "an order", "tiny must be read and run once")
    assert children[0].returncode == -signal.SIGKILL


def test_a_process_that_waits_is_told_once_and_gone_then(converted):
    give_golden(converted)
    with waiting_to_prepare() as waiting:
        assert waiting.child.poll() is None
        assert prepare_apart(order(converted), waiting).facts.name == "tiny"
        assert waiting.child.returncode == 0
    assert waiting.child.stdin.closed and waiting.child.stdout.closed


def test_a_process_that_waits_for_nothing_is_gone_with_its_block():
    with pytest.raises(KeyboardInterrupt), waiting_to_prepare() as waiting:
        raise KeyboardInterrupt
    assert waiting.child.returncode == -signal.SIGKILL


def test_a_process_whose_parent_says_nothing_any_more_ends_by_itself(capfd):
    with waiting_to_prepare() as waiting:
        waiting.child.stdin.close()
        assert waiting.child.wait(60) == 0
    assert capfd.readouterr().err == ""


def test_what_cannot_be_loaded_is_told_for_the_order(tmp_path):
    (tmp_path / "lacking.py").write_text(
        "from aaexport.serving.apart import do_as_told\n"
        "def load():\n    raise ImportError('no library of that name')\n"
        "do_as_told(str, load)\n"
    )
    with pytest.MonkeyPatch.context() as there:
        there.setenv("PYTHONPATH", str(tmp_path), prepend=":")
        preparation = apart.Apart("lacking", "an order" * 100_000, "tiny must be read")
        with pytest.raises(RunnerError, match="unexpected ImportError: no library of that name"):
            preparation.result()
    preparation.stop()


def test_a_preparation_that_is_stopped_leaves_no_process_and_what_it_left_goes_with_the_next(converted):
    give_golden(converted)
    preparation = Preparation(order(converted))
    preparation.stop()
    assert preparation.is_done()
    assert preparation._child.returncode != 0
    (served_folder(converted.path) / ".new.ab").mkdir(parents=True)
    prepare(order(converted))
    assert sorted(path.name for path in served_folder(converted.path).iterdir()) == [".lock", "1"]
