"""A deployment's folder appears whole or not at all, and takes the place of nothing that is not ours."""

import pytest

from aaexport.deployment.manifest import Manifest, differences, files_in, read_manifest
from aaexport.deployment.placing import placed, replaced_files, require_room
from aaexport.errors import FolderError
from aaexport.folder import sha256


def deployment(root, **texts):
    root.mkdir(parents=True, exist_ok=True)
    for name, text in texts.items():
        (root / name).write_text(text)
    Manifest("ray", "digits", "ab" * 32, {}, {name: sha256(root / name) for name in texts}).write(root)
    return root


def test_a_new_folder_appears_when_the_block_ends(tmp_path):
    with placed(tmp_path / "out", lambda: None) as new:
        (new / "a").write_text("1")
        assert not (tmp_path / "out").exists()
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


@pytest.mark.parametrize("failure", [ValueError, KeyboardInterrupt])
def test_nothing_appears_where_it_fails_and_what_was_there_stays(tmp_path, failure):
    old = deployment(tmp_path / "old", a="1")
    for out in (tmp_path / "out", old):
        with pytest.raises(failure), placed(out, lambda: None) as new:
            (new / "a").write_text("2")
            raise failure
    assert [path.name for path in tmp_path.iterdir()] == ["old"]
    assert (old / "a").read_text() == "1"


def test_what_changes_meanwhile_is_not_lost(tmp_path):
    out = deployment(tmp_path / "out", a="1")
    with pytest.raises(FolderError, match="another a"), placed(out, lambda: replaced_files(out)) as new:
        (new / "a").write_text("2")
        (out / "a").write_text("by hand")
    assert (out / "a").read_text() == "by hand"


def test_an_unchanged_deployment_is_replaced_whole(tmp_path):
    out = deployment(tmp_path / "out", a="1", b="1")
    assert replaced_files(out, ["a"]) == ()
    with placed(out, lambda: None) as new:
        deployment(new, a="2")
    assert sorted(files_in(out)) == ["a"]


def test_caches_of_python_are_nobodys(tmp_path):
    out = deployment(tmp_path / "out", a="1")
    (out / "__pycache__").mkdir()
    (out / "__pycache__" / "application.pyc").write_bytes(b"")
    assert replaced_files(out, ["a"]) == ()


def test_a_changed_file_is_replaced_by_force_alone_and_named(tmp_path):
    out = deployment(tmp_path / "out", a="1", b="1")
    (out / "a").write_text("by hand")
    with pytest.raises(FolderError, match=r"got .*out with another a; name another folder, or give force"):
        replaced_files(out, ["a", "b"])
    assert replaced_files(out, ["a", "b"], force=True) == ("a",)


def test_a_link_in_the_place_of_a_file_is_a_change(tmp_path):
    out = deployment(tmp_path / "out", a="1")
    (out / "a").rename(tmp_path / "elsewhere")
    (out / "a").symlink_to(tmp_path / "elsewhere")
    assert str(differences(out, read_manifest(out).files)) == "a changed"


def test_a_missing_file_is_nobodys_work_that_could_be_lost(tmp_path):
    out = deployment(tmp_path / "out", a="1", b="1")
    (out / "b").unlink()
    assert replaced_files(out, ["a", "b"]) == ()
    assert str(differences(out, read_manifest(out).files)) == "b missing"


@pytest.mark.parametrize("force", [False, True])
def test_somebody_elses_file_is_never_replaced(tmp_path, force):
    out = tmp_path / "out"
    out.mkdir()
    (out / "letter.txt").write_text("dear")
    with pytest.raises(FolderError, match=r"out must hold nothing but a deployment, got .* with letter\.txt"):
        replaced_files(out, ["a"], force=force)


def test_a_file_of_the_same_name_is_replaced_by_force_and_named(tmp_path):
    out = tmp_path / "out"
    out.mkdir()
    (out / "a").write_text("by hand")
    assert replaced_files(out, ["a"], force=True) == ("a",)


def test_a_file_beside_a_deployment_is_said(tmp_path):
    out = deployment(tmp_path / "out", a="1")
    (out / "letter.txt").write_text("dear")
    with pytest.raises(FolderError, match=r"another letter\.txt"):
        replaced_files(out, ["a"])


def test_where_nothing_could_stand_is_said_before_the_work(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(FolderError, match="out must be a folder"):
        require_room(tmp_path / "file")
    with pytest.raises(FolderError, match="must be a folder, got none; create it first"):
        require_room(tmp_path / "none" / "out")


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("{", "must be a whole manifest"),
        ("[]", "must be a whole manifest"),
        ('{"schema": "aaexport.deployment/9"}', "must have the schema aaexport.deployment/1"),
        ('{"schema": "aaexport.deployment/1", "files": {}}', "must be a whole manifest"),
    ],
)
def test_what_is_no_manifest_is_said(tmp_path, text, fault):
    (tmp_path / "deployment.json").write_text(text)
    with pytest.raises(FolderError, match=fault):
        read_manifest(tmp_path)
