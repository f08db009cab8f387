"""TensorRT's engines: built beforehand by a process that is made up, and never those of other weights."""

from pathlib import Path

import pytest

from aaexport.pipeline.bench import engines
from aaexport.pipeline.bench.engines import BUILD_TIMEOUT, with_engines
from aaexport.pipeline.bench.worker_models import WorkerSpec

TENSORRT = {"tensorrt": True}


class Builder:
    """Writes an engine where there is none yet, as TensorRT does: by the file's name alone."""

    fixed_batch = None
    started: list[tuple[int, float]]

    def __init__(self, spec, *, start_timeout):
        self.engine = Path(spec.engines) / f"{Path(spec.model).name}.engine"
        self.started.append((spec.sessions, start_timeout))

    def __enter__(self):
        if not self.engine.exists():
            self.engine.write_text("built")
        return self

    def __exit__(self, *error):
        pass

    def first_query(self, batch):
        return 0.1


@pytest.fixture(autouse=True)
def builder(monkeypatch):
    monkeypatch.setattr(Builder, "started", [], raising=False)
    monkeypatch.setattr(engines, "Contender", Builder)
    monkeypatch.setattr(engines, "read_data_files", lambda path: ())


def built(path, content, **session):
    path.write_bytes(content)
    spec = WorkerSpec("onnxruntime", str(path), "x.npz", "cuda", 1, sessions=4, session=TENSORRT | session,
                      scratch=str(path.parent / "scratch"))  # fmt: skip
    return with_engines(spec, lambda step, share: None)


def test_other_weights_under_the_same_name_have_engines_of_their_own(tmp_path):
    kept = {"engine_cache": str(tmp_path / "kept")}
    first, second = (built(tmp_path / "model.onnx", content, **kept) for content in (b"a", b"b"))
    assert first.engines != second.engines
    assert {Path(each.engines).parent for each in (first, second)} == {tmp_path / "kept"}
    assert first.build_s is not None
    assert second.build_s is not None


def test_engines_that_are_there_are_loaded_and_not_told_as_built(tmp_path):
    kept = {"engine_cache": str(tmp_path / "kept")}
    first, second = (built(tmp_path / "model.onnx", b"a", **kept) for _ in range(2))
    assert first.engines == second.engines
    assert (first.build_s is None, second.build_s) == (False, None)


def test_one_session_builds_and_has_time_for_it(tmp_path):
    built(tmp_path / "model.onnx", b"a")
    assert Builder.started == [(1, BUILD_TIMEOUT)]


def test_what_has_no_part_in_tensorrt_stays_as_it_is():
    for spec in (
        WorkerSpec("onnxruntime", "m.onnx", "x.npz", "cuda", 1),
        WorkerSpec("torch", "m", "x.npz", "cuda", 1, session=TENSORRT),
    ):
        assert with_engines(spec, print) is spec
    assert Builder.started == []
