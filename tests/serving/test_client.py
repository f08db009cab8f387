"""The client: what it answers, what it refuses and in which words, and when it asks again."""

import ssl
import threading
from contextlib import ExitStack
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
from inference_servers import SAYS, TINY, Service, over_both, over_grpc, over_http, silent, tiny_model, unused

pytest.importorskip("grpc")

from aaexport.errors import ArgumentError, ProtocolError, ServiceError
from aaexport.serving.address import Access, Address
from aaexport.serving.client import Client
from aaexport.serving.over_grpc import GrpcTransport
from aaexport.serving.protocol import ModelConfig, ModelMetadata, ServerMetadata, TensorMetadata
from aaexport.serving.runner import service_facts

KINDS = ("http", "grpc")


@pytest.fixture(scope="module")
def served():
    """One service for the tests that change nothing but its mischief, and its URLs."""
    service = Service(config=ModelConfig("tiny", 8, {"onnx_sha256": "ab"}, 100))
    with over_both(service) as urls:
        yield service, urls


@pytest.fixture
def service(served):
    service, _ = served
    service.queries.clear()
    yield service
    service.mischief, service.is_ready = lambda number: None, True
    service.away, service.index_is_closed = 0, False


@pytest.fixture(params=KINDS)
def url(request, served):
    return served[1][request.param]


@pytest.fixture
def client(url, service):
    with Client(url, timeout=3) as client:
        yield client


@pytest.fixture
def images(rng):
    return {"input": rng.standard_normal((3, 1, 2, 2), dtype=np.float32)}


def always(mischief):
    return lambda number: mischief


def first(mischief, times=1):
    return lambda number: mischief if number < times else None


def test_a_client_answers_as_the_model_does(client, images):
    answer = client.infer("tiny", images, id="7")
    np.testing.assert_array_equal(answer.outputs["logits"], tiny_model(images)["logits"])
    assert (answer.model, answer.version, answer.id) == ("tiny", "1", "7")


def test_a_client_tells_what_the_server_does(client, service, images):
    assert client.live()
    assert client.ready()
    assert client.ready("tiny", "1")
    assert not client.ready("nothing")
    assert client.server() == service.server
    assert client.model("tiny") == TINY
    assert client.config("tiny").onnx_sha256 == "ab"
    assert [state.state for state in client.index()] == ["READY"]
    client.load("tiny")
    client.unload("tiny")
    before = client.statistics("tiny")
    client.infer("tiny", images)
    spent = client.statistics("tiny") - before
    assert (spent.requests, spent.inferences, spent.executions) == (1, 3, 1)
    assert 0 < spent.infer_ns == spent.request_ns
    service.is_ready = False
    assert not client.ready()


@pytest.mark.parametrize("over", [over_http, over_grpc])
def test_what_a_server_does_not_tell_is_none(over):
    with over(Service(counted=None)) as url, Client(url) as client:
        assert client.config("tiny") is None
        assert client.statistics("tiny") is None


def test_a_server_without_the_binary_extension_is_asked_in_json(images):
    with over_http(Service(server=ServerMetadata("plain", "1"))) as url, Client(url) as client:
        np.testing.assert_array_equal(client.infer("tiny", images).outputs["logits"], tiny_model(images)["logits"])
        with pytest.raises(ProtocolError, match="send it as bytes"):
            client.infer("tiny", {"input": np.full((1, 1, 2, 2), np.nan, np.float32)})


def test_threads_share_a_client(client, rng):
    arrays = [rng.standard_normal((1 + at % 3, 1, 2, 2), dtype=np.float32) for at in range(40)]
    answers = {}

    def ask(at):
        answers[at] = client.infer("tiny", {"input": arrays[at]}, id=str(at)).outputs["logits"]

    threads = [threading.Thread(target=ask, args=(at,)) for at in range(len(arrays))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for at, array in enumerate(arrays):
        np.testing.assert_array_equal(answers[at], tiny_model({"input": array})["logits"])


@pytest.mark.parametrize(
    ("mischief", "text"),
    [
        ("empty", "output 'logits' must be of the query's batch 3, got 0"),
        ("half", "must be of the query's batch 3, got 1"),
        ("nothing", "the answer's outputs must be logits, got 'none'"),
        ("flat", "must be FP32 [any, 3], got 'FP32 [9]'"),
        ("float64", "got 'FP64 [3, 3]'"),
        ("nan", "must be finite as the inputs are"),
        ("other name", "the answer's outputs must be logits, got 'logits2'"),
    ],
)
def test_what_is_no_answer_is_refused_and_not_asked_again(client, service, images, mischief, text):
    service.mischief = always(mischief)
    with pytest.raises(ProtocolError) as caught:
        client.infer("tiny", images)
    assert text in str(caught.value)
    assert len(service.queries) == 1


@pytest.mark.parametrize(
    ("said", "text"),
    [
        ("-1", r"must be a number of bytes, got '-1' from http://"),
        ("many", r"must be a number of bytes, got 'many' from http://"),
        ("9" * 10_000, r"must be a number of bytes, got '9{40}…' from http://"),
        ("0", r"must be between 1 and the body's \d+, got 0"),
        ("999999", r"must be between 1 and the body's \d+, got 999999"),
        ("", "not an inference answer of the Open Inference Protocol: "),
    ],
)
def test_an_answer_whose_json_has_no_length_that_can_be_is_no_answer(served, service, images, said, text):
    service.mischief = always(f"{SAYS}{said}")
    with Client(served[1]["http"]) as client, pytest.raises(ProtocolError, match=text):
        client.infer("tiny", images)
    assert len(service.queries) == 1


def test_nan_that_comes_of_nan_is_an_answer(client, images):
    images["input"][1] = np.nan
    rows = client.infer("tiny", images).outputs["logits"]
    assert np.isnan(rows).any(axis=1).tolist() == [False, True, False]


@pytest.mark.parametrize("mischief", ["unavailable", "internal", "gone"])
def test_a_query_that_a_server_cannot_answer_now_is_asked_again(client, service, images, mischief):
    service.mischief = first(mischief, 2)
    client.infer("tiny", images)
    assert len(service.queries) == 3
    assert client.retried == 2


@pytest.mark.parametrize("mischief", ["reset", "short"])
def test_a_query_whose_connection_breaks_is_asked_again(served, service, images, mischief):
    service.mischief = first(mischief)
    with Client(served[1]["http"]) as client:
        client.infer("tiny", images)
    assert client.retried == 1


def test_a_query_that_hangs_is_asked_again(served, service, images):
    service.mischief = first("hang")
    for kind in KINDS:
        service.queries.clear()
        with Client(served[1][kind], timeout=2.0) as client:
            client.infer("tiny", images)
        assert client.retried == 1


def test_a_query_that_the_server_refuses_is_asked_once(client, service, images):
    service.mischief = always("invalid")
    with pytest.raises(ServiceError, match=r"refuses with (400|INVALID_ARGUMENT): unexpected shape$"):
        client.infer("tiny", images)
    assert len(service.queries) == 1


def test_a_client_that_does_not_retry_asks_once(url, service, images):
    service.mischief = always("unavailable")
    with Client(url, retry_for=0) as client, pytest.raises(ServiceError, match="the model is being loaded"):
        client.infer("tiny", images)
    assert len(service.queries) == 1


def test_a_model_that_is_not_there_is_refused(client):
    with pytest.raises(ServiceError, match=r"refuses with (404|NOT_FOUND): unknown model 'nothing', version ''"):
        client.infer("nothing", {"input": np.zeros((1, 1, 2, 2), np.float32)})


@pytest.mark.parametrize("ask", ["infer", "model", "config", "statistics"])
def test_a_model_that_is_away_while_it_is_loaded_anew_is_asked_again_by_a_fresh_client(client, service, images, ask):
    service.away = 3
    found = client.infer("tiny", images) if ask == "infer" else getattr(client, ask)("tiny")
    assert found is not None
    assert service.away == 0
    assert client.retried >= 1


def test_a_runner_waits_for_a_model_that_is_away(url, service):
    service.away = 3
    with Client(url) as client:
        assert service_facts(client, "tiny").onnx_sha256 == "ab"
        assert client.retried == 3


@pytest.mark.parametrize("retry_for", [0, 0.1])
def test_a_model_that_stays_away_is_told_in_the_servers_words(url, service, images, retry_for):
    service.away = 1000
    with Client(url, retry_for=retry_for) as client:
        with pytest.raises(ServiceError, match="unknown model: 'tiny' has no available versions"):
            client.infer("tiny", images)
        assert (client.retried > 0) == (retry_for > 0)
        with pytest.raises(ServiceError, match="unknown model: 'tiny' has no available versions"):
            service_facts(client, "tiny")


def test_a_name_that_no_server_knows_is_refused_at_once_where_the_index_tells(served, service, images):
    with Client(list(served[1].values()), retry_for=600) as client:
        with pytest.raises(ServiceError, match="unknown model 'nothing'"):
            client.infer("nothing", images)
        assert client.retried == 1  # of the other server
        with pytest.raises(ServiceError, match=r"must serve tinny, got .*; did you mean 'tiny'\?"):
            service_facts(client, "tinny")


def test_where_nobody_tells_whether_a_name_is_known_it_is_asked_for_again(url, service, images):
    service.index_is_closed = True
    with Client(url, retry_for=0.1) as client:
        with pytest.raises(ServiceError, match="unknown model 'nothing'"):
            client.infer("nothing", images)
        assert client.retried > 0


def test_a_model_that_only_the_other_server_has_is_answered_by_that(served, service, images):
    with over_http(Service(model=replace(TINY, name="other"))) as other:
        for urls in ([other, served[1]["http"]], [other, served[1]["grpc"]]):
            with Client(urls) as client:
                client.infer("tiny", images)


def test_a_slow_answer_does_not_hold_a_query_for_long(served, service, images):
    service.mischief = always("dribble")
    with (
        Client(served[1]["http"], timeout=0.2, retry_for=0) as client,
        pytest.raises(ServiceError) as caught,
    ):
        client.infer("tiny", images)
    assert "url must be answered within 0.2 s, got no whole answer at http://127.0.0.1:" in str(caught.value)


@pytest.mark.parametrize("scheme", KINDS)
def test_a_port_that_nobody_listens_on(scheme):
    url = f"{scheme}://{unused()}"
    with Client(url, retry_for=0) as client:
        assert not client.live()
        assert not client.ready()
        with pytest.raises(ServiceError) as caught:
            client.server()
    assert str(caught.value) == (
        f"url must be answered, got connection refused at {url}; is the service running, and on this port?"
    )


@pytest.mark.parametrize("scheme", KINDS)
def test_a_port_that_says_nothing(scheme):
    with (
        silent() as place,
        Client(f"{scheme}://{place}", timeout=0.2, retry_for=0) as client,
        pytest.raises(ServiceError, match=r"url must be answered within 0.2 s, got no whole answer at"),
    ):
        client.server()


@pytest.mark.parametrize("scheme", KINDS)
def test_a_host_that_there_is_not(scheme):
    with (
        Client(f"{scheme}://nowhere.invalid:1", retry_for=0, timeout=3) as client,
        pytest.raises(ServiceError, match=r"url must be answered, got (an|the) unknown host"),
    ):
        client.server()


def test_the_other_protocol_is_seen(served):
    urls = {kind: url.partition("://")[2] for kind, url in served[1].items()}
    with Client(f"http://{urls['grpc']}", timeout=10) as client, pytest.raises(ServiceError) as caught:
        client.server()
    assert "url must speak HTTP, got something else from" in str(caught.value)
    assert "is it the port for gRPC?" in str(caught.value)
    with Client(f"grpc://{urls['http']}", timeout=10) as client, pytest.raises(ServiceError) as caught:
        client.server()
    assert "url must speak gRPC, got something else from" in str(caught.value)


def test_an_answer_that_is_no_json_is_another_protocol(served, service, images):
    service.mischief = always("junk")
    with (
        Client(served[1]["http"]) as client,
        pytest.raises(ProtocolError, match="not an inference answer of the Open"),
    ):
        client.infer("tiny", images)


def test_the_next_server_answers_for_one_that_is_gone(served, service, images, monkeypatch):
    monkeypatch.setattr("aaexport.serving.client.REST", 600.0)
    for kind in KINDS:
        with Client([f"{kind}://{unused()}", served[1][kind]]) as client:
            for _ in range(4):
                client.infer("tiny", images)
            assert client.retried == 1  # of the metadata: then it rests


def test_servers_are_asked_in_turn(images):
    with ExitStack() as stack:
        services = [Service(), Service()]
        urls = [stack.enter_context(over_http(service)) for service in services]
        client = stack.enter_context(Client(urls))
        for _ in range(6):
            client.infer("tiny", images)
        assert [len(service.queries) for service in services] == [3, 3]
        assert client.statistics("tiny").requests == 6


def test_a_new_version_with_other_outputs_is_seen_after_one_refusal(images):
    service = Service()
    with over_http(service) as url, Client(url) as client:
        client.infer("tiny", images)
        service.model = ModelMetadata("tiny", ("2",), "", TINY.inputs, (TensorMetadata("scores", "FP32", (-1, 3)),))
        service.compute = lambda inputs: {"scores": tiny_model(inputs)["logits"]}
        with pytest.raises(ProtocolError):
            client.infer("tiny", images)
        assert client.infer("tiny", images).version == "2"


def test_another_name_in_the_metadata_is_refused():
    class Other(Service):
        def require_known(self, name, version):
            """Any name is right."""

    with (
        over_http(Other()) as url,
        Client(url) as client,
        pytest.raises(ProtocolError, match="the model's metadata must be of mine, got 'tiny'"),
    ):
        client.model("mine")


def test_times_are_numbers_of_seconds():
    with pytest.raises(ArgumentError, match="timeout must be a number of seconds above 0, got 0"):
        Client("http://a", timeout=0)
    with pytest.raises(ArgumentError, match="retry_for must be a number of seconds from 0, got -1"):
        Client("http://a", retry_for=-1)


@pytest.mark.parametrize("over", [over_http, over_grpc])
def test_authorization_goes_along(over):
    service = Service(token="Bearer a")
    with over(service) as url:
        with Client(url, authorization="Bearer a") as client:
            assert client.server() == service.server
        with Client(url) as stranger, pytest.raises(ServiceError, match=r"refuses with (401|UNAUTHENTICATED)"):
            stranger.server()


@pytest.fixture(scope="module")
def certificate(tmp_path_factory):
    trustme = pytest.importorskip("trustme")
    authority = trustme.CA()
    path = tmp_path_factory.mktemp("tls") / "ca.pem"
    authority.cert_pem.write_to_path(str(path))
    return authority.issue_cert("127.0.0.1"), path


def test_by_https(certificate, images):
    issued, path = certificate
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    issued.configure_cert(context)
    with (
        over_http(Service(), context) as url,
        Client(url, ca=path) as client,
    ):
        client.infer("tiny", images)
        with Client(url) as stranger, pytest.raises(ServiceError) as caught:
            stranger.server()
        assert "url must be reached by TLS, got certificate verify failed" in str(caught.value)
        assert "give the authority of its certificate with --ca FILE" in str(caught.value)


def test_by_grpcs(certificate, images):
    import grpc

    issued, path = certificate
    keys = [(issued.private_key_pem.bytes(), issued.cert_chain_pems[0].bytes())]
    with (
        over_grpc(Service(), grpc.ssl_server_credentials(keys)) as url,
        Client(url, ca=path) as client,
    ):
        client.infer("tiny", images)
        with (
            Client(url, timeout=3) as stranger,
            pytest.raises(ServiceError, match="url must be reached by TLS, got"),
        ):
            stranger.server()


class CutWhileShakingHandsError(Exception):
    """What grpcio raises where a server ends while a connection is being made."""

    def code(self):
        return SimpleNamespace(name="UNAVAILABLE")

    def details(self):
        return "failed to connect to all addresses; last error: Handshake read failed (Connection closed)"


@pytest.mark.parametrize("scheme, says, again", [("grpc", "closed without an answer", True), ("grpcs", "TLS", False)])
def test_a_connection_that_ends_in_its_handshake_lacks_tls_only_where_that_was_asked_for(scheme, says, again):
    transport = GrpcTransport(Address(scheme, "127.0.0.1", 1), Access())
    why = transport._failure(CutWhileShakingHandsError())
    assert says in str(why)
    assert why.retryable is again


def test_without_tls_on_the_other_side(served):
    for scheme, kind in (("https", "http"), ("grpcs", "grpc")):
        place = served[1][kind].partition("://")[2]
        with (
            Client(f"{scheme}://{place}", timeout=10) as client,
            pytest.raises(ServiceError, match="url must be reached by TLS, got"),
        ):
            client.server()


def test_a_file_that_is_no_certificate(tmp_path):
    with pytest.raises(ServiceError, match=r"ca must be a file of certificates, got .*nothing.pem"):
        Client("https://a", ca=tmp_path / "nothing.pem")
