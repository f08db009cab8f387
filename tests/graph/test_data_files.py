"""The data file of a model above the limit: where it may lie, who else needs it, and what is left of it."""

import errno
import os
import shutil
from pathlib import Path

import onnx
import onnx_ir as ir
import pytest
from large_graphs import X, answer, model_of, names, refusal, replace_with
from onnx import TensorProto

from aaexport import writing
from aaexport.errors import FolderError
from aaexport.graph import outside, write
from aaexport.graph.digests import digests_of
from aaexport.graph.files import read_data_files, read_onnx
from aaexport.graph.optimize import optimize_model
from aaexport.graph.outside import Room
from aaexport.graph.write import new_onnx, write_onnx
from aaexport.runners.ort import OrtRunner

pytestmark = pytest.mark.usefixtures("limits")


# Where there is no place for it


def refused(model, path):
    with pytest.raises(FolderError) as error:
        replace_with(model, path)
    return str(error.value)


def test_a_small_file_goes_into_a_pipe():
    read, write_end = os.pipe()
    try:
        replace_with(model_of(width=9), Path(f"/dev/fd/{write_end}"))
        assert os.read(read, 2**16) == model_of(width=9).SerializeToString()
    finally:
        os.close(read)
        os.close(write_end)


def test_a_large_one_does_not():
    read, write_end = os.pipe()
    path = Path(f"/dev/fd/{write_end}")
    told = (
        f"{path} must be a file for a model above 2 GiB, whose numbers are a file beside it, got a pipe or a device"
    )
    try:
        assert refused(model_of(), path) == told
        with Room.beside(path) as room, pytest.raises(FolderError, match="got a pipe or a device"):
            optimize_model(model_of(), room=room)
    finally:
        os.close(read)
        os.close(write_end)


def test_a_link_is_refused_before_anything_is_written(tmp_path):
    (tmp_path / "store").mkdir()
    target, link = tmp_path / "store" / "t.onnx", tmp_path / "link.onnx"
    replace_with(model_of(width=9), target)
    link.symlink_to(target)
    assert refused(model_of(), link).endswith(f", got one to {target}; write to that")
    with Room.beside(link) as room, pytest.raises(FolderError, match="must be no link"):
        optimize_model(model_of(), room=room)
    assert names(tmp_path / "store") == ["t.onnx"]
    replace_with(model_of(1, width=9), link)  # a small one goes where it points
    assert link.is_symlink()
    assert digests_of(read_onnx(target)) == digests_of(model_of(1, width=9))


@pytest.mark.parametrize("name", ["bench:1.onnx", "net v2: b.onnx"])
def test_a_colon_is_a_letter(tmp_path, name):
    replace_with(model_of(), tmp_path / name)
    assert digests_of(read_onnx(tmp_path / name)) == digests_of(model_of())
    assert answer(OrtRunner(tmp_path / name), X)["y"].shape == (3, 30)


@pytest.mark.parametrize("location", ["C:x.data", "c:\\x.data", "http://x/y.data", "s3+a://y.data"])
def test_drives_and_urls_are_outside(written, location):
    model = onnx.load(written, load_external_data=False)
    next(entry for entry in model.graph.initializer[0].external_data if entry.key == "location").value = location
    written.write_bytes(model.SerializeToString())
    assert "must lie in the folder of model.onnx" in refusal(read_onnx, written)


def test_a_name_that_is_none_for_our_reader_is_refused(tmp_path):
    assert "got 'c:1.onnx'; rename it" in refused(model_of(), tmp_path / "c:1.onnx")
    assert names(tmp_path) == []


@pytest.mark.parametrize("place", ["m\udcff.onnx", "f\udcff/m.onnx"])
def test_a_path_that_is_no_text_is_refused_in_a_line(tmp_path, place):
    path = tmp_path / place
    path.parent.mkdir(exist_ok=True)
    told = str(path).replace("\udcff", "\\xff")
    assert refused(model_of(), path).startswith(f"{told} must have a path in UTF-8 for a model above 2 GiB")
    assert names(path.parent) == []


# What others need, and what nobody does


def notes_of(model, path):
    with new_onnx(path) as new:
        new.write(model)
    return new.notes


@pytest.mark.parametrize("copy", ["v1.onnx", "model.onnx.old"])
def test_a_copy_keeps_its_numbers(written, copy):
    (old,) = read_data_files(written)
    shutil.copy(written, written.parent / copy)
    assert notes_of(model_of(1), written) == [f"{old.name} was kept, for {copy} has its numbers there"]
    assert digests_of(read_onnx(written.parent / copy)) == digests_of(model_of())
    assert notes_of(model_of(2), written) == []  # told once
    assert len(names(written.parent)) == 4


def test_a_file_that_nobody_needs_is_told(written):
    orphan = written.with_name("model.onnx.0123456789abcdef.data")
    for path in (orphan, written.with_name("other.onnx.0123456789abcdef.data")):
        path.touch()
    written.with_name("empty.onnx").touch()
    assert notes_of(model_of(1), written) == [
        f"{orphan.name} may be of a conversion that was killed: no ONNX file beside it has its numbers there"
    ]
    assert orphan.exists()


def test_numbers_that_cannot_be_removed_are_a_note(written, monkeypatch):
    (old,) = read_data_files(written)

    def refuse(path):
        raise FolderError(f"{path} cannot be removed: Operation not permitted")

    monkeypatch.setattr(write, "remove", refuse)
    (note,) = notes_of(model_of(1), written)
    assert note.startswith(f"{old} cannot be removed: Operation not permitted; no ONNX file")
    assert digests_of(read_onnx(written)) == digests_of(model_of(1))


def test_an_interrupt_after_the_rename_leaves_both(written, monkeypatch):
    removing = writing._Folder.remove

    def interrupted(self, name):
        removing(self, name)
        if name.endswith(".tmp"):
            raise KeyboardInterrupt

    monkeypatch.setattr(writing._Folder, "remove", interrupted)
    with pytest.raises(KeyboardInterrupt):
        replace_with(model_of(1), written)
    assert digests_of(read_onnx(written)) == digests_of(model_of(1))


def test_of_two_conversions_of_the_same_weights_the_failure_takes_nothing_away(path):
    with pytest.raises(ValueError), new_onnx(path) as first:
        first.write(model_of())
        replace_with(model_of(), path)
        raise ValueError
    assert digests_of(read_onnx(path)) == digests_of(model_of())
    path.unlink()
    read_path = first.data
    read_path.unlink()
    with new_onnx(path) as second, pytest.raises(ValueError), new_onnx(path) as first:
        first.write(model_of())
        second.write(model_of())
        raise ValueError
    assert digests_of(read_onnx(path)) == digests_of(model_of())


def test_numbers_that_vanish_before_the_model_has_its_name_are_told(written):
    before = written.read_bytes()
    with pytest.raises(FolderError, match="got a file that was moved or removed"), new_onnx(written) as new:
        new.write(model_of(1))
        new.data.unlink()
    assert written.read_bytes() == before


# The disk


def test_the_first_copy_asks_for_room_for_both(tmp_path, monkeypatch):
    def has(free):
        monkeypatch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(10, 10, free))

    large = (8 * 40 + 40 * 30) * 4 + 2 * outside.ALIGNMENT
    total = large - 2 * outside.ALIGNMENT + 40 * 4
    for free in (large, large + total - 1):
        has(free)
        with Room(tmp_path) as room, pytest.raises(FolderError, match="of weights, which are written twice, got "):
            optimize_model(model_of(), room=room)
    has(large + total)
    with Room(tmp_path) as room:
        optimize_model(model_of(), room=room)


@pytest.mark.parametrize("number", [errno.EIO, errno.EACCES])
def test_other_faults_of_a_disk_are_no_lack_of_room(written, monkeypatch, number):
    def broken(*_, **__):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(ir.external_data, "convert_tensors_to_external", broken)
    assert refused(model_of(1), written) == f"{written.parent} cannot be written: {os.strerror(number)}"


def test_a_source_that_is_gone_is_told(written, tmp_path):
    model = read_onnx(written)
    (data,) = read_data_files(written)
    data.unlink()
    told = refusal(write_onnx, model, tmp_path / "new.onnx")
    assert told.startswith(f"{data} must stay where it is while its model is read, but: ")
    assert names(tmp_path) == ["model.onnx"]


# Less than a byte


@pytest.mark.parametrize(("kind", "taken"), [("INT4", 6), ("UINT4", 6), ("FLOAT4E2M1", 6), ("INT2", 3), ("INT8", 11)])
def test_numbers_that_share_a_byte_count(kind, taken):
    if kind not in [*TensorProto.DataType.keys()]:
        pytest.skip(f"this onnx has no {kind}")
    tensor = TensorProto(data_type=TensorProto.DataType.Value(kind), dims=[11])
    assert outside.bytes_of(tensor) == taken
    assert outside.bytes_of(TensorProto(data_type=TensorProto.STRING, dims=[11])) == 0


def test_too_much_of_them_is_refused_at_once(path, monkeypatch):
    model = model_of()
    packed = TensorProto(name="q", data_type=TensorProto.INT4, dims=[200, 100], raw_data=bytes(10000))
    model.graph.initializer.append(packed)
    monkeypatch.setattr(outside, "PROTOBUF", 10000)
    monkeypatch.setattr(write, "write_tensors", None)
    told = refusal(write_onnx, model, path)
    assert told.startswith("the model must stay below 2 GiB, protobuf's limit, without its large initializers, got ")
    assert told.endswith("numbers of less than a byte")
    assert names(path.parent) == []
