import shutil

import pytest

import aaexport


@pytest.fixture(scope="session")
def reduced_once(converted_once, tmp_path_factory):
    """A folder with all three files, and what both conversions told."""
    path = tmp_path_factory.mktemp("reduced") / "tiny"
    shutil.copytree(converted_once, path)
    return path, {kind: aaexport.convert(path, dtype=kind) for kind in ("int8", "float16")}
