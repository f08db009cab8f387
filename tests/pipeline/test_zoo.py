"""Every zoo model, with random weights, goes the whole way at its native size: built, exported, verified.

Most take minutes, so they run with `make test-slow` only.
"""

import pytest

import aaexport
from aaexport.errors import ParityError
from aaexport.folder import checkout, zoo_models
from aaexport.parity import TOLERANCES
from aaexport.pipeline.subject.subject import write_random_weights


@pytest.mark.slow
@pytest.mark.parametrize("name", zoo_models())
def test_a_zoo_model_with_random_weights_keeps_parity(name, tmp_path):
    folder = checkout(name, tmp_path / name)
    folder.weights_path.unlink(missing_ok=True)
    write_random_weights(folder)
    try:
        result = aaexport.convert(folder)
    except ParityError as error:
        pytest.fail(f"{error}: {error.report.failures}")
    assert result.parity.passed
    assert result.parity.max_error_ratio <= TOLERANCES["float32", "cpu"].ratio
    print(f"{name}: {result.parity.max_abs_error:.1e}, {result.parity.max_error_ratio:.1f} ×, {result.seconds:.0f} s")
