"""tuning.json → what `auto` means for a conversion: where it holds, is left aside, or is spoilt."""

import json

import onnx
import pytest
from folders import edited, tiny_folder

import aaexport
from aaexport.errors import FolderError
from aaexport.folder import checkout, open_folder
from aaexport.pipeline.export.plan import plan_attention
from aaexport.pipeline.export.tuned import read_tuning, tuned_choices, tuned_opset
from aaexport.pipeline.subject.subject import as_subject, decompositions_of, write_random_weights

SIZES = {"height": 4, "width": 4, "dkh": 20, "dvh": 1, "num_heads": 2, "relative": True}  # of the tiny network's end
TUNING = {
    "schema": "aaexport.tuning/1",
    "device": "onnxruntime CPU",
    "opset": 20,
    "batch": 2,
    "provider": "CPUExecutionProvider",
    "environment": {"cpu": "a processor"},
}
NOTE = "auto is what tuning.json measured on onnxruntime CPU, a processor, batch 2"


@pytest.fixture(scope="module")
def folder_once(tmp_path_factory):
    """A tiny network with one augmented layer, and random weights."""
    folder = tiny_folder(tmp_path_factory.mktemp("tuning") / "tiny")
    write_random_weights(folder)
    return folder


@pytest.fixture
def folder(folder_once, tmp_path):
    """A copy that a test may spoil."""
    return checkout(folder_once.path, tmp_path / "tiny")


@pytest.fixture
def tune(folder):
    """Writes a tuning.json that says `table` in two blocks, but for what is changed."""

    def write(decomposition="table", blocks=2, **changes):
        chosen = {"decomposition": decomposition, "blocks": blocks}
        value = {**TUNING, "layers": [{"sizes": SIZES, "chosen": chosen}], **changes}
        folder.tuning_path.write_text(json.dumps(value))

    write()
    return write


def planned(folder, decomposition="auto", opset=20, batch="dynamic", size=None, limit=None, target="cpu"):
    """The decompositions of the layers, and the notes, that a conversion would have."""
    subject = as_subject(folder, size=size)
    tuned, notes = tuned_choices(subject, decomposition, opset, batch, target)
    options = {"decomposition": decomposition, "max_attention_memory": limit, "tuned": tuned}
    plan_attention(subject.module, opset=opset, batch=batch, **options)
    return decompositions_of(subject.module), notes


# Where it holds


@pytest.mark.slow
def test_convert_takes_what_was_measured_and_says_so(folder, tune):
    steps = []
    result = aaexport.convert(folder, say=steps.append)
    entries = {entry.key: entry.value for entry in onnx.load(result.path).metadata_props}
    assert (result.decomposition, entries["aaexport.decomposition"]) == ("table/2", "table/2")
    assert result.parity.passed
    assert NOTE in result.notes
    assert NOTE in steps


def test_without_a_tuning_the_cost_model_chooses(folder):
    assert planned(folder) == ("fold", ())


def test_what_was_measured_at_another_opset_of_its_class_holds_too(folder, tune):
    assert planned(folder, opset=18) == ("table/2", (NOTE,))


@pytest.mark.parametrize("opset", [20, 23])
def test_what_won_without_the_operator_attention_although_it_was_timed_holds_at_both(folder, tune, opset):
    tune(timed_opset=23)
    assert planned(folder, opset=opset) == ("table/2", (NOTE,))


def test_one_operator_is_taken_where_the_opset_has_it(folder, tune):
    tune("fused", 2, opset=23)
    assert planned(folder, opset=25) == ("fused/2", (NOTE,))


def test_a_fixed_batch_takes_what_was_measured_at_that_batch(folder, tune):
    assert planned(folder, batch=2) == ("table/2", (NOTE,))


def test_what_was_measured_gives_way_where_it_cannot_keep_a_limit_on_memory(folder, tune):
    tune("fold")
    keys = 2 * 16 * 20 * 4 / 2**20  # of two heads, 16 positions of depth 20 and 4 bytes each, in MiB
    assert planned(folder, limit=keys) == ("table/2", (NOTE,))
    assert planned(folder, limit=2 * keys) == ("fold/2", (NOTE,))


def test_layers_of_other_sizes_are_left_to_the_cost_model(folder, tune):
    folder.weights_path.unlink()
    edited(folder, "stages = [2]", "stages = [1, 2]")
    write_random_weights(folder)
    decompositions, (note,) = planned(open_folder(folder.path))
    assert decompositions == "fold,table/2"
    assert note == f"{NOTE}, for 1 of 2 layers; the others are of other sizes"


def test_a_copy_of_a_folder_has_its_tuning(folder, tune, tmp_path):
    assert checkout(folder.path, tmp_path / "copy").tuning_path.is_file()


# The opset, which a GPU decides


@pytest.mark.parametrize(("changes", "asked", "opset"), [
    ({}, {}, 23),
    ({}, {"decomposition": "fold"}, None),
    ({}, {"batch": 3}, None),
    ({}, {"target": "cpu"}, None),
    ({"provider": "CPUExecutionProvider"}, {"target": "cpu"}, None),
    ({"layers": []}, {}, None),
], ids=["as it is", "decomposition", "batch", "target", "measured on a CPU", "other sizes"])  # fmt: skip
def test_a_tuning_on_a_gpu_says_the_opset_where_it_holds(folder, tune, changes, asked, opset):
    tune("fused", **{"opset": 23, "timed_opset": 23, "provider": "CUDAExecutionProvider", **changes})
    wanted = {"decomposition": "auto", "batch": "dynamic", "target": "cuda", **asked}
    assert tuned_opset(as_subject(folder), **wanted) == opset


# Where it does not


def test_a_decomposition_that_is_asked_for_beats_it(folder, tune):
    assert planned(folder, decomposition="fold") == ("fold", ())


@pytest.mark.slow
def test_a_recipe_that_names_a_decomposition_beats_it(folder, tune):
    edited(folder, "[training]", '[export]\ndecomposition = "skew"\n\n[training]')
    assert aaexport.convert(open_folder(folder.path), verify=False).decomposition == "skew"


ASIDE = {
    "opset": ({"opset": 23}, "it is for opset 20, and 23 has other candidates"),
    "batch": ({"batch": 3}, "it is for batch 2"),
    "target": ({"target": "cuda"}, "it is for cpu"),
    "size": ({"size": (12, 12)}, "it is for attention of other sizes"),
}


@pytest.mark.parametrize(("options", "reason"), ASIDE.values(), ids=ASIDE)
def test_a_tuning_that_does_not_fit_is_left_aside_and_it_is_said(folder, tune, options, reason):
    decompositions, notes = planned(folder, **options)
    assert "table" not in decompositions
    assert notes == (f"tuning.json is left aside: {reason}; run `aaexport tune` again to use it",)


# Where it is spoilt

AS_WRITTEN = "must be as `aaexport tune` wrote it, but: "
SPOILT = {
    "another schema": (
        {"schema": "aaexport.tuning/2"},
        "must have the schema aaexport.tuning/1, got 'aaexport.tuning/2'",
    ),
    "no layers": ({"layers": None}, AS_WRITTEN),
    "no such size": ({"layers": [{"sizes": {"depth": 3}, "chosen": {}}]}, AS_WRITTEN),
    "no processor": ({"environment": {}}, f"{AS_WRITTEN}it has no 'cpu'"),
    "no such opset": ({"opset": 99}, f"{AS_WRITTEN}its opset is 99"),
    "timed at an older opset": ({"timed_opset": 19}, f"{AS_WRITTEN}its opset is 20"),
    "no batch": ({"batch": 0}, f"{AS_WRITTEN}its batch is 0"),
    "no such decomposition": ({"decomposition": "magic"}, f"{AS_WRITTEN}its chosen is 'magic'"),
    "no choice": ({"decomposition": "auto"}, f"{AS_WRITTEN}its chosen is 'auto'"),
    "not in the opset": ({"decomposition": "fused"}, f"{AS_WRITTEN}its chosen is 'fused'"),
    "too many blocks": ({"blocks": 10**9}, f"{AS_WRITTEN}its blocks is 1000000000"),
    "half a block": ({"blocks": 1.5}, f"{AS_WRITTEN}its blocks is 1.5"),
}
UNREADABLE = {"no JSON": b"{", "no text": b"\xff\xfe", "too deep": b"[" * 100_000, "nothing": b""}


def complaint(folder):
    with pytest.raises(FolderError) as refusal:
        read_tuning(folder.tuning_path)
    text = str(refusal.value)
    assert text.startswith(f"{folder.tuning_path} ")
    assert text.endswith("; delete it, or run `aaexport tune` again")
    return text


@pytest.mark.parametrize(("changes", "words"), SPOILT.values(), ids=SPOILT)
def test_a_file_that_tune_did_not_write_so_is_refused_with_the_remedy(folder, tune, changes, words):
    tune(**changes)
    assert words in complaint(folder)


@pytest.mark.parametrize("content", UNREADABLE.values(), ids=UNREADABLE)
def test_a_file_that_is_no_json_is_refused_with_the_remedy(folder, content):
    folder.tuning_path.write_bytes(content)
    assert "must be readable JSON, but: " in complaint(folder)


def test_a_file_that_holds_something_else_is_refused_with_the_remedy(folder):
    folder.tuning_path.write_text("[]")
    assert "must have the schema aaexport.tuning/1, got None" in complaint(folder)


def test_a_spoilt_file_stops_convert_before_anything_is_written(folder):
    folder.tuning_path.write_text("{")
    with pytest.raises(FolderError, match=r"tuning\.json must be readable JSON"):
        aaexport.convert(folder)
    assert not folder.onnx_path.exists()


def test_a_spoilt_file_does_not_matter_where_a_decomposition_is_asked_for(folder):
    folder.tuning_path.write_text("{")
    assert planned(folder, decomposition="table") == ("table", ())
