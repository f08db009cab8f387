"""The server that computes nothing: it answers by the protocol, of the right sizes, over both wires."""

import json
import subprocess
import sys

import numpy as np
import pytest
from inference_servers import TINY

pytest.importorskip("grpc")

from aaexport.serving import null_server
from aaexport.serving.client import Client
from aaexport.serving.rest_codec import model_json


@pytest.mark.parametrize("kind", ["http", "grpc"])
def test_it_answers_with_zeros_of_the_models_size(kind, rng):
    port, kept = {"http": null_server.serve_http, "grpc": null_server.serve_grpc}[kind](TINY)
    with Client(f"{kind}://127.0.0.1:{port}") as client:
        assert client.ready("tiny")
        for batch in (1, 3, 1, 5000):
            images = rng.standard_normal((batch, 1, 2, 2), dtype=np.float32)
            np.testing.assert_array_equal(
                client.infer("tiny", {"input": images}).outputs["logits"], np.zeros((batch, 3))
            )
        assert client.config("tiny") is None
    del kept


def test_the_process_says_where_it_is_and_ends_with_its_stdin():
    command = [sys.executable, "-m", "aaexport.serving.null_server"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        process.stdin.write(json.dumps({"kind": "http", "model": model_json(TINY)}) + "\n")
        process.stdin.flush()
        port = json.loads(process.stdout.readline())["port"]
        with Client(f"http://127.0.0.1:{port}") as client:
            assert client.model("tiny") == TINY
        process.stdin.close()
        assert process.wait(timeout=10) == 0
