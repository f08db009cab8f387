"""NVIDIA's own client of Triton, over HTTP and gRPC, with one way to ask both: what its examples call."""

from contextlib import contextmanager

import pytest

KINDS = {"float32": "FP32", "float64": "FP64"}


def require_official_client():
    """Skips where it is not installed, and says so."""
    for name in ("tritonclient.http", "tritonclient.grpc"):
        pytest.importorskip(name, reason="tritonclient or geventhttpclient is not installed", exc_type=ImportError)


class OfficialClient:
    """`client` is NVIDIA's, `way` is `http` or `grpc`."""

    def __init__(self, way, url):
        import tritonclient.grpc
        import tritonclient.http

        self.way, self.module = way, getattr(tritonclient, way)
        self.client = self.module.InferenceServerClient(url.partition("://")[2])

    def told(self, method, *arguments):
        """What a call tells, as a dict over both protocols."""
        as_json = {} if self.way == "http" else {"as_json": True}
        return getattr(self.client, method)(*arguments, **as_json)

    def given(self, array, name="input", *, binary=True):
        """An input."""
        asked = self.module.InferInput(name, array.shape, KINDS[str(array.dtype)])
        asked.set_data_from_numpy(array, **({"binary_data": binary} if self.way == "http" else {}))
        return asked

    def infer(self, array, *, model="tiny", name="input", output="logits", binary=True, **more):
        """The result of a query for one output."""
        form = {} if self.way == "grpc" else {"binary_data": binary}
        return self.client.infer(
            model,
            [self.given(array, name, binary=binary)],
            outputs=[self.module.InferRequestedOutput(output, **form)],
            **more,
        )


@contextmanager
def official_client(way, url):
    """One that is closed with the block."""
    made = OfficialClient(way, url)
    try:
        yield made
    finally:
        made.client.close()
