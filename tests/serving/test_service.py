"""What a service leaves where it does not even start."""

import tempfile
from pathlib import Path

import pytest

from aaexport.errors import ServiceError
from aaexport.serving import service
from aaexport.serving.engine import Engine, Ports


def test_a_client_that_cannot_be_made_leaves_no_folder(tmp_path, monkeypatch):
    def fails(*_, **__):
        raise ServiceError("grpcio is not installed")

    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setattr(service, "Client", fails)
    with pytest.raises(ServiceError, match="grpcio is not installed"):
        service.Service(Engine(Path("tritonserver"), None, None, "python", ""), "127.0.0.1", Ports(1, 2, 3))
    assert not list(tmp_path.iterdir())
