"""Tensors outside of their model: read where they lie, written beside the file, and never half of either."""

import errno
import shutil

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from google.protobuf.message import EncodeError
from large_graphs import X, answer, model_of, names, refusal, replace_with
from onnx import TensorProto, numpy_helper

from aaexport.errors import FolderError
from aaexport.folder import is_data_file, sha256
from aaexport.graph import light, outside, write
from aaexport.graph.audit import audit
from aaexport.graph.digests import digests_of, record_digests
from aaexport.graph.files import file_digest, read_data_files, read_onnx, summarize
from aaexport.graph.intermediate import changed_constants, exposing
from aaexport.graph.optimize import optimize_model
from aaexport.graph.outside import Room, is_outside, numbers, parts
from aaexport.graph.write import new_onnx, write_onnx
from aaexport.runners.ort import OrtRunner
from aaexport.runners.reference import ReferenceRunner

pytestmark = pytest.mark.usefixtures("limits")


# Written


def test_the_large_tensors_lie_in_one_file_named_by_its_digest(written):
    (data,) = read_data_files(written)
    assert names(written.parent) == ["model.onnx", data.name]
    assert is_data_file(data.name, "model.onnx")
    assert data.name == f"model.onnx.{sha256(data)[:16]}.data"
    model = onnx.load(written, load_external_data=False)
    assert [tensor.name for tensor in model.graph.initializer if tensor.external_data] == ["w", "v"]
    for tensor in model.graph.initializer:
        entries = {entry.key: entry.value for entry in tensor.external_data}
        assert not entries or (entries["location"] == data.name and int(entries["offset"]) % 2**16 == 0)


def test_onnx_itself_reads_what_was_written(written):
    onnx.checker.check_model(str(written), full_check=True)
    for tensor, expected in zip(onnx.load(written).graph.initializer, model_of().graph.initializer, strict=True):
        np.testing.assert_array_equal(numpy_helper.to_array(tensor), numpy_helper.to_array(expected))


def test_a_model_that_has_room_is_one_file(path):
    assert write_onnx(model_of(width=9), path) is None
    assert names(path.parent) == ["model.onnx"]
    assert path.read_bytes() == model_of(width=9).SerializeToString()


def test_the_same_numbers_have_the_same_file(written, tmp_path):
    again = tmp_path / "again"
    again.mkdir()
    write_onnx(model_of(), again / "model.onnx")
    assert names(again) == names(written.parent)[1:]


@pytest.mark.parametrize("kind", [EncodeError, ValueError])
def test_a_model_that_stays_too_large_inside_is_told(path, monkeypatch, kind):
    class Unwilling:
        def SerializeToString(self):  # noqa: N802 - protobuf's name
            raise kind("exceeded maximum protobuf size of 2GB: 2199023255\nmore")

    monkeypatch.setattr(write, "_pointing", lambda *_: Unwilling())
    assert refusal(write_onnx, model_of(), path) == (
        "the model must stay below 2 GiB, protobuf's limit, without its large initializers, but: exceeded maximum "
        "protobuf size of 2GB: 2199023255"
    )
    assert names(path.parent) == []


@pytest.mark.parametrize("dtype", [np.float16, np.float64])
def test_other_types_lie_outside_too(path, dtype):
    write_onnx(model_of(dtype=dtype, width=120), path)
    read, expected = read_onnx(path), model_of(dtype=dtype, width=120)
    assert is_outside(read.graph.initializer[0])
    assert digests_of(read) == digests_of(expected)


# Read


def test_what_is_too_large_stays_in_its_file(written):
    read = read_onnx(written)
    assert [is_outside(tensor) for tensor in read.graph.initializer] == [True, False, True]
    for tensor, expected in zip(read.graph.initializer, model_of().graph.initializer, strict=True):
        np.testing.assert_array_equal(numbers(tensor), numpy_helper.to_array(expected))


def test_what_has_room_is_loaded(written, monkeypatch):
    monkeypatch.setattr(outside, "LIMIT", 2**30)
    assert not any(is_outside(tensor) for tensor in read_onnx(written).graph.initializer)


def test_a_large_file_without_external_data_is_read_as_it_is(path):
    onnx.save(model_of(), path)
    assert digests_of(read_onnx(path)) == digests_of(model_of())


def test_what_cannot_lie_outside_is_refused_where_it_is_too_much(path, monkeypatch):
    onnx.save(model_of(), path, save_as_external_data=True, location="any.bin", size_threshold=0)
    monkeypatch.setattr(light, "LARGE", 2000)
    assert "must be above 2 GiB for the sake of large initializers alone" in refusal(read_onnx, path)


def test_parts_are_the_numbers_in_their_order(written, monkeypatch):
    monkeypatch.setattr(outside, "NUMBERS_AT_ONCE", 100)
    for model in (model_of(), read_onnx(written)):
        for tensor in model.graph.initializer:
            found = [*parts(tensor)]
            assert max(part.size for part in found) <= 100
            np.testing.assert_array_equal(np.concatenate(found), numbers(tensor).reshape(-1))


def test_digests_are_those_of_the_numbers_wherever_they_lie(written):
    assert digests_of(read_onnx(written)) == digests_of(model_of())


def test_runtimes_read_them_where_they_lie(written):
    expected = answer(OrtRunner(model_of().SerializeToString()), X)["y"]
    for runner in (OrtRunner, ReferenceRunner):
        np.testing.assert_allclose(answer(runner(written), X)["y"], expected, rtol=1e-5, atol=1e-5)


def test_openvino_reads_them_where_they_lie(written):
    pytest.importorskip("openvino")
    from aaexport.runners.openvino import OpenvinoRunner

    expected = answer(OrtRunner(written), X)["y"]
    np.testing.assert_allclose(answer(OpenvinoRunner(written), X)["y"], expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("start", [OrtRunner, ReferenceRunner])
def test_models_that_expose_the_inside_read_them_too(written, start):
    inside = exposing(read_onnx(written), ["h", "y"])
    assert inside.folder == written.parent
    found, expected = answer(start(inside), X), answer(OrtRunner(exposing(model_of(), ["h", "y"])), X)
    for name in ("h", "y"):
        np.testing.assert_allclose(found[name], expected[name], rtol=1e-5, atol=1e-5)


def test_a_summary_counts_both_files(written):
    found = summarize(written)
    (data,) = found.data_files
    assert found.bytes == written.stat().st_size + data.stat().st_size
    assert found.parameters == summarize_of(model_of(), written.parent)


def summarize_of(model, folder):
    (folder / "whole").mkdir()
    onnx.save(model, folder / "whole" / "m.onnx")
    return summarize(folder / "whole" / "m.onnx").parameters


# Spoilt


def test_a_file_that_is_not_there_is_told(written):
    read_data_files(written)[0].unlink()
    text = refusal(read_onnx, written)
    assert text.startswith(f"{written} must have its external data beside it, but: ")
    assert "No such file" in text


def test_a_file_that_was_cut_off_is_told(written):
    (data,) = read_data_files(written)
    data.write_bytes(data.read_bytes()[:-1])
    assert f"{data.name} ends at {data.stat().st_size} bytes, where v goes on to " in refusal(read_onnx, written)


def test_a_length_that_is_not_the_tensors_is_told(written):
    model = onnx.load(written, load_external_data=False)
    next(entry for entry in model.graph.initializer[0].external_data if entry.key == "length").value = "1276"
    written.write_bytes(model.SerializeToString())
    assert "gives 1276 bytes to w, which takes 1280" in refusal(read_onnx, written)


def test_another_byte_is_another_digest_and_a_failure(path):
    model = model_of()
    record_digests(model)
    write_onnx(model, path)
    (data,) = read_data_files(path)
    before = file_digest(path, [data])
    assert audit(path).failures == ()
    content = bytearray(data.read_bytes())
    content[0] ^= 1
    data.write_bytes(content)
    assert audit(path).changed_initializers == ("w",)
    assert file_digest(path, [data]) != before
    assert changed_constants(read_onnx(path), model) == {"w"}


def test_external_data_that_has_room_counts_too(path, monkeypatch):
    monkeypatch.setattr(outside, "LIMIT", 2**30)
    onnx.save(model_of(), path, save_as_external_data=True, location="any.bin", size_threshold=0)
    beside = summarize(path).data_files
    assert beside == audit(path).data_files == (path.parent / "any.bin",)
    before = file_digest(path, beside)
    content = beside[0].read_bytes()
    beside[0].write_bytes(content[:-1] + b"\0")
    assert file_digest(path, beside) != before


def test_a_digest_of_one_file_is_its_sha256(path):
    onnx.save(model_of(), path)
    assert file_digest(path, ()) == sha256(path)


def test_numbers_that_go_away_are_an_error_of_the_file(written):
    model = read_onnx(written)
    read_data_files(written)[0].unlink()
    for use in (numbers, lambda tensor: [*parts(tensor)]):
        assert "must stay where it is while its model is read" in refusal(use, model.graph.initializer[0])


# Replaced


def test_a_file_and_its_numbers_replace_others(written):
    old = names(written.parent)
    replace_with(model_of(1), written)
    assert len(names(written.parent)) == 2
    assert names(written.parent) != old
    assert digests_of(read_onnx(written)) == digests_of(model_of(1))


def test_until_then_the_old_file_has_its_own_numbers(written):
    with new_onnx(written) as new:
        new.write(model_of(1))
        assert digests_of(read_onnx(written)) == digests_of(model_of())
        assert digests_of(read_onnx(new.path)) == digests_of(model_of(1))
        assert new.bytes == new.path.stat().st_size + new.data.stat().st_size


def test_a_small_file_takes_the_numbers_of_the_large_one_away_and_back(written):
    replace_with(model_of(width=9), written)
    assert names(written.parent) == ["model.onnx"]
    replace_with(model_of(), written)
    assert len(names(written.parent)) == 2


def test_the_same_numbers_stay(written):
    before = names(written.parent)
    replace_with(model_of(), written)
    assert names(written.parent) == before
    assert digests_of(read_onnx(written)) == digests_of(model_of())


def test_what_others_wrote_stays(path):
    onnx.save(model_of(), path, save_as_external_data=True, location="model.onnx.data", size_threshold=0)
    replace_with(model_of(1), path)
    (data,) = read_data_files(path)
    assert names(path.parent) == sorted(["model.onnx", "model.onnx.data", data.name])


@pytest.mark.parametrize("accident", [KeyboardInterrupt, ValueError])
@pytest.mark.parametrize("seed", [0, 1])
def test_an_accident_leaves_the_folder_as_it_was(written, seed, accident):
    before = {file.name: file.read_bytes() for file in written.parent.iterdir()}
    with pytest.raises(accident), new_onnx(written) as new:
        new.write(model_of(seed))
        raise accident
    assert {file.name: file.read_bytes() for file in written.parent.iterdir()} == before


@pytest.mark.parametrize("step", ["flush_to_disk", "sha256", "encoded"])
def test_an_interrupted_write_leaves_the_folder_as_it_was(written, monkeypatch, step):
    before = names(written.parent)

    def interrupt(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(write, step, interrupt)
    with pytest.raises(KeyboardInterrupt):
        replace_with(model_of(1), written)
    assert names(written.parent) == before


def test_a_moved_folder_keeps_no_numbers(written):
    moved = written.parent.with_name("moved")
    before = names(written.parent)
    with pytest.raises(FolderError, match="must stay where it is"), new_onnx(written) as new:
        new.write(model_of(1))
        written.parent.rename(moved)
    assert names(moved) == before


def test_a_disk_without_room_is_told_before_anything_is_written(written, monkeypatch):
    before = names(written.parent)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(10, 10, 1000))
    with pytest.raises(FolderError) as error:
        replace_with(model_of(1), written)
    told = f"{written.parent} must have room for 0.00 GB of weights, got 0.00 GB; free some, or write elsewhere"
    assert str(error.value) == told
    assert names(written.parent) == before


def test_a_disk_that_fills_up_is_told(written, monkeypatch):
    def full(*_, **__):
        raise OSError(errno.ENOSPC, "No space left on device")

    before = names(written.parent)
    monkeypatch.setattr(ir.external_data, "convert_tensors_to_external", full)
    with pytest.raises(FolderError, match="got No space left on device; free some, or write elsewhere"):
        replace_with(model_of(1), written)
    assert names(written.parent) == before


# In a room


def test_rules_read_what_lies_outside_and_put_what_they_make_there(written, tmp_path):
    with Room(tmp_path) as room:
        model = read_onnx(written)
        rewritten, _ = optimize_model(model, room=room)
        assert all(is_outside(t) == (t.name != "b") for t in rewritten.graph.initializer)
        assert digests_of(rewritten).tensors == digests_of(model).tensors
        write_onnx(rewritten, tmp_path / "new.onnx")
    np.testing.assert_array_equal(
        answer(OrtRunner(tmp_path / "new.onnx"), X)["y"], answer(OrtRunner(written), X)["y"]
    )


def test_a_model_that_is_made_is_put_into_the_room(tmp_path):
    with Room(tmp_path) as room:
        rewritten, _ = optimize_model(model_of(), room=room)
        assert room.is_used
        assert {tensor.name for tensor in rewritten.graph.initializer if is_outside(tensor)} == {"w", "v"}
        assert len(names(tmp_path)) == 1
    assert names(tmp_path) == []


def test_without_a_room_it_is_refused(tmp_path):
    assert refusal(optimize_model, model_of()).startswith("the model must stay below 2 GiB, protobuf's limit, got ")


def test_an_external_tensor_without_a_place_has_no_content(written):
    model = onnx.load(written, load_external_data=False)
    assert model.graph.initializer[0].data_location == TensorProto.EXTERNAL
    assert set(digests_of(model).tensors) == {"b"}
