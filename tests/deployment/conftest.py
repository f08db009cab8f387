"""One model for all tests of a deployment's files."""

import pytest
from deployable import digits_facts


@pytest.fixture(scope="session")
def facts(tmp_path_factory):
    return digits_facts(tmp_path_factory.mktemp("deployable") / "digits")
