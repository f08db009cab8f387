import hashlib
import json
import shutil
from types import SimpleNamespace

import pytest

from aaexport.errors import FolderError, ModelNotFoundError, NoWeightsError, RecipeError
from aaexport.folder import (
    COPIED_FILES,
    ModelFolder,
    checkout,
    copies,
    data_file_name,
    find_model,
    is_data_file,
    open_folder,
    sha256,
    tool_versions,
    zoo_models,
    zoo_root,
)

MODEL = "aa_cnn3_digits"


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    """Every test works in an empty folder, so that a name means the zoo's model."""
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def copied(tmp_path):
    """A copy of a zoo model that a test may spoil."""
    return checkout(MODEL, tmp_path / "copied")


@pytest.fixture
def no_folder(tmp_path):
    """A path below a file: nothing can be written there, whoever runs the tests."""
    (tmp_path / "file").write_text("in the way")
    return tmp_path / "file" / "below"


def contents(path):
    return {file.name: file.read_bytes() for file in path.iterdir()}


# Finding


def test_a_name_means_the_zoos_folder():
    assert find_model(MODEL).path == zoo_root() / MODEL


def test_a_path_means_that_folder(copied):
    assert find_model(str(copied.path)) == copied


def test_the_zoo_is_in_alphabetical_order():
    assert list(zoo_models()) == sorted(zoo_models())


def test_a_folder_of_the_zoo_knows_that_it_is_one():
    assert find_model(MODEL).is_zoo


def test_a_copy_of_a_zoo_model_is_not_the_zoos(copied):
    assert not copied.is_zoo


def test_a_misspelt_name_suggests_the_right_one():
    with pytest.raises(ModelNotFoundError) as refusal:
        find_model("aa_cnn3_digit")
    text = "model must be a folder or a zoo name, got 'aa_cnn3_digit'; did you mean 'aa_cnn3_digits'?"
    assert str(refusal.value) == text


def test_a_name_unlike_any_lists_the_zoo():
    with pytest.raises(ModelNotFoundError) as refusal:
        find_model("zzz")
    assert str(refusal.value).endswith(f"known: {', '.join(zoo_models())}")


def test_a_file_is_no_model(copied):
    with pytest.raises(
        FolderError, match=r"model must be a model folder or a zoo name, got the file '.*model\.toml'"
    ):
        find_model(copied.recipe_path)


@pytest.mark.parametrize("find", [find_model, open_folder])
def test_a_folder_without_a_recipe_is_no_model(tmp_path, find):
    with pytest.raises(FolderError) as refusal:
        find(tmp_path)
    assert str(refusal.value).startswith(f"{tmp_path} must hold a model.toml")


def test_missing_weights_are_refused_with_the_way_to_them(copied):
    copied.weights_path.unlink(missing_ok=True)
    with pytest.raises(NoWeightsError, match=r"aaexport train .*copied"):
        copied.require_weights()


# Checking out


def test_a_zoo_model_is_copied_to_out(tmp_path):
    folder = checkout(MODEL, tmp_path / "deep" / "out")
    kept = {name: text for name, text in contents(zoo_root() / MODEL).items() if name in COPIED_FILES}
    assert (folder.path, contents(folder.path)) == (tmp_path / "deep" / "out", kept)


def test_a_zoo_model_is_copied_beside_without_out(tmp_path):
    assert checkout(MODEL).path.resolve() == tmp_path / MODEL


def test_a_zoo_model_named_by_its_path_is_copied_too():
    assert not checkout(zoo_root() / MODEL).is_zoo


def test_a_copy_is_announced(tmp_path):
    lines = []
    checkout(MODEL, tmp_path / "out", lines.append)
    assert lines == [f"copied {MODEL} to {tmp_path / 'out'}"]


def test_an_empty_folder_is_filled(tmp_path):
    (tmp_path / "out").mkdir()
    assert checkout(MODEL, tmp_path / "out").recipe_path.is_file()


def test_a_path_is_worked_on_in_place(copied):
    before = contents(copied.path)
    assert (checkout(copied.path), contents(copied.path)) == (copied, before)


def test_a_path_that_is_its_own_out_is_worked_on_in_place(copied):
    assert checkout(copied.path, copied.path.parent / "." / "copied").path.resolve() == copied.path


def test_a_folder_is_copied_with_its_weights(copied, tmp_path):
    copied.weights_path.write_bytes(b"weights")
    assert checkout(copied.path, tmp_path / "second").weights_path.read_bytes() == b"weights"


def test_a_checkpoint_and_an_export_are_not_copied(copied, tmp_path):
    for path in (copied.checkpoint_path, copied.onnx_path, copied.parity_path):
        path.write_bytes(b"of this folder alone")
    assert set(contents(checkout(copied.path, tmp_path / "second").path)) <= set(COPIED_FILES)


def test_an_out_that_holds_the_same_recipe_is_worked_on_as_it_is(copied):
    copied.weights_path.write_bytes(b"trained here")
    before = contents(copied.path)
    assert (checkout(MODEL, copied.path), contents(copied.path)) == (copied, before)


def test_a_reuse_is_not_announced_as_a_copy(copied):
    lines = []
    checkout(MODEL, copied.path, lines.append)
    assert lines == []


def spoilt_recipe(path):
    checkout(MODEL, path)
    ModelFolder(path).recipe_path.write_text("# mine\n" + (zoo_root() / MODEL / "model.toml").read_text())


def other_content(path):
    path.mkdir()
    (path / "thesis.tex").write_text("years of work")


@pytest.mark.parametrize("occupy", [spoilt_recipe, other_content])
def test_an_out_with_something_else_is_unharmed(tmp_path, occupy):
    occupy(tmp_path / "out")
    before = contents(tmp_path / "out")
    with pytest.raises(FolderError):
        checkout(MODEL, tmp_path / "out")
    assert contents(tmp_path / "out") == before


def test_an_out_with_another_recipe_is_refused_by_name(copied):
    with pytest.raises(FolderError) as refusal:
        checkout("conv_cnn3_digits", copied.path)
    assert str(refusal.value) == f"out must be new or hold the model.toml of conv_cnn3_digits, got {copied.path}"


def test_an_out_with_other_content_is_refused_by_name(tmp_path):
    other_content(tmp_path / "out")
    with pytest.raises(FolderError) as refusal:
        checkout(MODEL, tmp_path / "out")
    assert str(refusal.value) == f"out must be a new or empty folder, got {tmp_path / 'out'}"


def test_an_out_that_is_a_file_is_refused(tmp_path):
    (tmp_path / "out").write_text("a file")
    with pytest.raises(FolderError, match="out must be a new or empty folder"):
        checkout(MODEL, tmp_path / "out")


def test_an_out_that_cannot_be_made_is_refused(no_folder):
    with pytest.raises(FolderError) as refusal:
        checkout(MODEL, no_folder)
    assert str(no_folder) in str(refusal.value)


def test_a_broken_recipe_is_not_copied(copied, tmp_path):
    copied.recipe_path.write_text("schema = 2")
    with pytest.raises(RecipeError):
        checkout(copied.path, tmp_path / "second")
    assert not (tmp_path / "second").exists()


def test_half_a_copy_is_taken_back(tmp_path, monkeypatch):
    copies = []

    def fails_at_the_second(*paths):
        copies.append(paths)
        if len(copies) > 1:
            raise OSError(28, "No space left on device")
        shutil.copyfile(*paths)

    monkeypatch.setattr("aaexport.folder.shutil", SimpleNamespace(copyfile=fails_at_the_second))
    with pytest.raises(FolderError, match="No space left on device"):
        checkout(MODEL, tmp_path / "deep" / "out")
    assert len(copies) == 2
    assert list(tmp_path.iterdir()) == []


# The manifest


@pytest.fixture
def manifest(copied):
    """What the manifest of a folder with weights, a checkpoint and a hidden file says."""
    copied.weights_path.write_bytes(b"weights")
    copied.checkpoint_path.write_bytes(b"checkpoint")
    (copied.path / ".hidden").write_bytes(b"hidden")
    copied.write_manifest()
    return json.loads(copied.manifest_path.read_text(encoding="utf-8"))


def test_the_manifest_names_its_schema(manifest):
    assert manifest["schema"] == "aaexport.manifest/1"


def test_the_manifest_lists_every_file_but_itself_the_checkpoint_and_hidden_ones(manifest, copied):
    assert set(manifest["files"]) == set(contents(copied.path)) - {"manifest.json", "checkpoint.pt", ".hidden"}


def test_the_manifest_holds_digest_and_size_of_every_file(manifest, copied):
    wanted = {
        name: {"sha256": hashlib.sha256(text).hexdigest(), "bytes": len(text)}
        for name, text in contents(copied.path).items()
        if name in manifest["files"]
    }
    assert manifest["files"] == wanted


def test_the_manifest_holds_the_versions_of_the_tools(manifest):
    assert manifest["tools"] == tool_versions()


@pytest.mark.parametrize("tool", ["aaexport", "torch", "onnx", "onnxscript", "numpy"])
def test_the_tools_of_a_manifest_include(manifest, tool):
    assert manifest["tools"][tool]


def test_a_second_manifest_is_equal(manifest, copied):
    copied.write_manifest()
    assert json.loads(copied.manifest_path.read_text(encoding="utf-8")) == manifest


def test_sha256_is_that_of_the_content(tmp_path):
    (tmp_path / "file.txt").write_text("old")
    assert sha256(tmp_path / "file.txt") == hashlib.sha256(b"old").hexdigest()


def test_a_copy_goes_again_with_the_numbers_of_a_large_model(tmp_path):
    def convert_and_fail(check_out):
        folder = check_out("aa_cnn3_digits", tmp_path / "new")
        folder.onnx_path.touch()
        (folder.path / data_file_name("model.onnx", "0" * 16)).touch()
        raise FolderError("no")

    with pytest.raises(FolderError, match="no"), copies() as check_out:
        convert_and_fail(check_out)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("name", "is_one"),
    [
        ("model.onnx.0123456789abcdef.data", True),
        ("model.onnx.data", False),
        ("model.onnx.0123456789abcde.data", False),
        ("model.onnx.0123456789ABCDEF.data", False),
        ("other.onnx.0123456789abcdef.data", False),
        ("0123456789abcdef.data", False),
    ],
)
def test_the_name_of_a_data_file(name, is_one):
    assert is_data_file(name, "model.onnx") is is_one
