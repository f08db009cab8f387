"""`aaexport tune --device cuda` on a GPU that computes nothing: every way runs there, and none passes its check."""

import shutil

import pytest


@pytest.mark.slow
def test_ways_that_answer_wrongly_on_the_gpu_are_refused_in_one_line(fake_cuda, converted, tmp_path):
    folder = shutil.copytree(converted.path, tmp_path / "model")
    command = ["-m", "aaexport", "-q", "tune", folder, "--device", "cuda", "--duration", "0.05s", "--batch", "1"]
    ran = fake_cuda.run(command, tmp_path / "log", timeout=300)
    assert ran.code == 3
    assert "fused" in ran.out.splitlines()[0].split()  # the recipe names no opset: the one with all ways was timed
    (line,) = ran.err.splitlines()
    assert line.startswith("Error: no decomposition of ")
    assert "is inside the parity bound" in line
    assert ran.count("kernel") > 0
    assert not (folder / "tuning.json").exists()
