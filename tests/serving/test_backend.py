"""What Triton's Python backend answers where something goes wrong, without Triton: whose fault it is."""

import importlib.util
import os
import sys
import time
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest

from aaexport import pixels
from aaexport.serving import at_work
from aaexport.serving.repository import BACKEND_FILES

SECRET = "/home/somebody/served/3/model.onnx"


class TritonError:
    """Triton's, with codes as words."""

    INVALID_ARG, UNAVAILABLE, INTERNAL = "INVALID_ARG", "UNAVAILABLE", "INTERNAL"

    def __init__(self, text, code):
        self.text, self.code = text, code

    def message(self):
        return self.text


class Tensor(SimpleNamespace):
    """An array with a name."""

    @classmethod
    def from_dlpack(cls, name, array):
        return cls(name=name, array=array)

    def __dlpack__(self, **options):
        return self.array.__dlpack__(**options)

    def __dlpack_device__(self):
        return self.array.__dlpack_device__()


class Request(SimpleNamespace):
    """Tensors by name."""

    def requested_output_names(self):
        return ["logits"]


class Response(SimpleNamespace):
    """Tensors, or why there are none."""

    def __init__(self, tensors=(), error=None):
        super().__init__(tensors=tensors, error=error)

    def has_error(self):
        return self.error is not None


class InvalidArgument(Exception):  # noqa: N818  onnxruntime's names
    pass


class RuntimeException(Exception):  # noqa: N818
    pass


@pytest.fixture
def backend(monkeypatch):
    """Makes the model of a backend's file, with Triton's module in its place."""
    asked = SimpleNamespace(answer=Response(error=TritonError("not asked", "INTERNAL")))
    utils = ModuleType("triton_python_backend_utils")
    utils.__dict__.update(
        Tensor=Tensor, TritonError=TritonError, InferenceResponse=Response,
        get_input_tensor_by_name=lambda request, name: Tensor(array=getattr(request, name)),
        get_output_tensor_by_name=lambda response, name: response.tensors[0],
        InferenceRequest=lambda **about: SimpleNamespace(exec=lambda: asked.answer),
    )  # fmt: skip
    monkeypatch.setitem(sys.modules, utils.__name__, utils)
    monkeypatch.setitem(sys.modules, "pixels", pixels)
    monkeypatch.setitem(sys.modules, "at_work", at_work)
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.setattr(sys, "unraisablehook", sys.unraisablehook)

    def make(file):
        spec = importlib.util.spec_from_file_location(f"backend_{file}", BACKEND_FILES / f"{file}.py")
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        model = module.TritonPythonModel()
        model.asked = asked
        return model

    yield make
    sys.modules.pop("faults", None)


def tensors(backend, run, *, sizes=(1, 2, 2)):
    """One that runs `run` for a session whose file has images of these sizes."""
    model = backend("tensors")
    model.session = SimpleNamespace(
        run=lambda outputs, fed: run(fed["input"]), get_inputs=lambda: [SimpleNamespace(shape=["batch", *sizes])]
    )
    model.inputs, model.outputs, model.batches, model.most = ["input"], ["logits"], True, 4
    model.at_work, model.places = at_work.AtWork(), ()
    model.has_open_sizes = not all(isinstance(size, int) for size in sizes)
    return model


def query(value=1.0, batch=1, size=2):
    return Request(input=np.full((batch, 1, size, size), value, np.float32))


def raising(error):
    def run(images):
        raise error

    return run


def test_a_query_that_fails_does_not_fail_its_neighbours(backend):
    def run(images):
        if (images < 0).any():
            raise InvalidArgument("[ONNXRuntimeError] : 2 : INVALID_ARGUMENT : negative")
        return [images.sum((1, 2, 3))]

    right, wrong, other = tensors(backend, run).execute([query(1.0), query(-1.0), query(2.0, batch=2)])
    assert [array.tolist() for array in (right.tensors[0].array, other.tensors[0].array)] == [[4.0], [8.0, 8.0]]
    assert (wrong.error.code, right.error) == ("INVALID_ARG", None)


@pytest.mark.parametrize(
    "error",
    [
        MemoryError("Unable to allocate 9 GiB for an array"),
        RuntimeException("Non-zero status code returned while running Conv node: std::bad_alloc"),
        RuntimeException(f"{SECRET}: Failed to allocate memory for requested buffer of size 9663676416"),
        RuntimeException("CUDA failure 2: out of memory ; GPU=0"),
    ],
)
@pytest.mark.parametrize("sizes", [(1, 2, 2), (1, "height", "width")])
def test_a_lack_of_memory_is_the_servers_and_may_be_asked_again(backend, capsys, error, sizes):
    (answer,) = tensors(backend, raising(error), sizes=sizes).execute([query()])
    assert answer.error.code == "UNAVAILABLE"
    assert answer.error.text == "there is too little memory for this query at present"
    assert str(error) in capsys.readouterr().err


@pytest.mark.parametrize("error", [RuntimeException(f"{SECRET}:12 no"), KeyError(SECRET), OSError(5, SECRET)])
def test_what_breaks_inside_is_the_servers_and_its_cause_is_in_the_log_alone(backend, capsys, error):
    (answer,) = tensors(backend, raising(error)).execute([query()])
    assert answer.error.code == "INTERNAL"
    assert answer.error.text == "the model could not be run; the server's log tells why"
    assert SECRET in capsys.readouterr().err


def test_a_size_that_the_network_does_not_take_is_the_clients(backend):
    text = f"Non-zero status code returned while running Reshape node: {SECRET}:45 {{1,7,7}} is no {{-1,10}}"
    model = tensors(backend, raising(RuntimeException(text)), sizes=(1, "height", "width"))
    (answer,) = model.execute([query()])
    assert answer.error.code == "INVALID_ARG"
    assert answer.error.text == "Non-zero status code returned while running Reshape node: …:45 {1,7,7} is no {-1,10}"


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("Load model from /home/some body/my models/3/model.onnx failed: no", "Load model from … failed: no"),
        ("cannot open '/home/some body/my model.onnx'", "cannot open …"),
        ('no "/home/o\'brien x/my model.onnx" there', "no … there"),
        ("/données/modèles numéro é/1/model.onnx:45 {1}", "…:45 {1}"),
        ("in (/模型 一/二 三/四): bad", "in (…): bad"),
        (r"C:\Users\some body\model.onnx: bad", "…: bad"),
        ("bad: C:/Users/some body/model.onnx", "bad: …"),
        (r"'D:\my models\my model.onnx' is bad", "… is bad"),
        (r"\\server\some share\model.onnx, bad", "…, bad"),
        ("~/my models/model.onnx", "…"),
        ("file=/model.onnx", "file=…"),
        ("/srv/models (old)/a_(1)/model.onnx", "…"),
        ("ratio 1/2, 3/4/5 of image/png, and/or 7 / 8", "ratio 1/2, 3/4/5 of image/png, and/or 7 / 8"),
        ("12:30 is {1,7,7}: 'input' and \"x\"", "12:30 is {1,7,7}: 'input' and \"x\""),
    ],
)
def test_a_path_is_told_to_nobody_whatever_is_in_its_names(backend, text, told):
    (answer,) = tensors(backend, raising(InvalidArgument(text))).execute([query()])
    assert answer.error.text == told


@pytest.mark.parametrize("name", ["my models", "a: b", "it's", 'say "so"', "numéro é, 二", "(old) <new>"])
def test_the_models_own_places_are_known_whatever_is_in_their_names(backend, tmp_path, name):
    """Those of the repository, and of the folder that its links lead to."""
    real, repository = tmp_path / "real" / name, tmp_path / "repository" / name
    real.mkdir(parents=True)
    repository.mkdir(parents=True)
    (real / "my model.onnx").touch()
    (repository / "model.onnx").symlink_to(real / "my model.onnx")
    model = tensors(backend, raising(InvalidArgument(f"{real}/my model.onnx and {repository}/model.onnx: bad")))
    model.places = sys.modules["faults"].places_of(repository)
    (answer,) = model.execute([query()])
    assert answer.error.text in ("…: bad", "… and …: bad")


def test_a_gpu_that_fails_is_not_the_clients_whatever_sizes_are_open(backend):
    error = RuntimeException("CUDA failure 700: an illegal memory access was encountered")
    (answer,) = tensors(backend, raising(error), sizes=(1, "height", "width")).execute([query()])
    assert answer.error.code == "INTERNAL"


def test_a_batch_that_is_too_large_is_the_clients(backend):
    model = tensors(backend, lambda images: [images])
    model.batches = False
    (answer,) = model.execute([query(batch=5)])
    assert (answer.error.code, answer.error.text) == ("INVALID_ARG", "batch must be at most 4, got 5")


@pytest.fixture
def photos(backend):
    model = backend("images")
    model.about = {
        "most_bytes": 64, "shape": [1, 8, 8], "mean": [0.3], "std": [0.4], "crop_share": 1.0, "most_pixels": 4096,
        "model": "digits", "version": 1, "input": "input", "scores": "logits", "top": 2,
    }  # fmt: skip
    model.at_work, model.places = at_work.AtWork(), ()
    model.labels = np.frombuffer(b"onetwo", np.uint8).reshape(2, 3)
    return model


def photo(content):
    return Request(image=np.frombuffer(content, np.uint8).copy())


def test_junk_is_the_clients_and_says_no_path(photos, monkeypatch):
    (answer,) = photos.execute([photo(b"no image")])
    assert answer.error.code == "INVALID_ARG"
    assert answer.error.text.startswith("image must be a readable JPEG or PNG file, but: ")
    (answer,) = photos.execute([photo(b"x" * 65)])
    assert answer.error.text.endswith("but: it has 65 bytes, more than 64")
    monkeypatch.setattr(pixels, "network_input", lambda *_: (_ for _ in ()).throw(OSError(f"cannot read {SECRET}")))
    (answer,) = photos.execute([photo(b"x")])
    assert (answer.error.code, answer.error.text.partition(": ")[2]) == ("INVALID_ARG", "cannot read …")


@pytest.mark.parametrize(
    ("error", "code"), [(MemoryError(), "UNAVAILABLE"), (ImportError(f"no PIL in {SECRET}"), "INTERNAL")]
)
def test_what_keeps_an_image_from_being_decoded_may_be_the_servers(photos, monkeypatch, error, code):
    monkeypatch.setattr(pixels, "network_input", lambda *_: (_ for _ in ()).throw(error))
    (answer,) = photos.execute([photo(b"x")])
    assert answer.error.code == code
    assert "/" not in answer.error.text


def test_a_right_image_whose_model_does_not_answer_is_the_servers_matter(photos, monkeypatch):
    monkeypatch.setattr(pixels, "network_input", lambda *_: np.zeros((1, 1, 8, 8), np.float32))
    photos.asked.answer = Response(error=TritonError(f"Stub process '{SECRET}' is not healthy.", "INVALID_ARG"))
    (answer,) = photos.execute([photo(b"x")])
    assert answer.error.code == "INTERNAL"
    assert "/" not in answer.error.text
    photos.asked.answer = Response([Tensor(array=np.array([[0.0, 3.0]], np.float32))])
    (answer,) = photos.execute([photo(b"x")])
    assert [tensor.array.tolist()[0] for tensor in answer.tensors][:1] == [1]


@pytest.fixture
def told(tmp_path, monkeypatch):
    """Since when this process is at work, by its file."""
    monkeypatch.setenv(at_work.FOLDER, str(tmp_path))
    return lambda: at_work.at_work(tmp_path).get(os.getpid())


@pytest.mark.parametrize("batches", [True, False])
def test_it_tells_that_it_is_at_work_while_it_computes(backend, told, batches):
    seen, now = [], time.monotonic()

    def run(images):
        seen.append(told())
        return [images.sum((1, 2, 3))]

    model = tensors(backend, run)
    model.batches = batches
    assert told() is None
    model.execute([query()])
    assert now < seen[0] <= time.monotonic()
    assert told() is None
    model = tensors(backend, raising(MemoryError()))
    model.execute([query()])
    assert told() is None


def test_who_asks_another_model_is_not_at_work_itself(photos, told, monkeypatch):
    seen = []

    def decoded(*words):
        seen.append(told() is not None)
        return np.zeros((1, 1, 8, 8), np.float32)

    photos.at_work = at_work.AtWork()
    monkeypatch.setattr(pixels, "network_input", decoded)
    monkeypatch.setattr(photos, "_scores", lambda fed: seen.append(told() is not None) or np.zeros(2, np.float32))
    photos.execute([photo(b"x")])
    assert seen == [True, False]


def test_where_no_file_can_be_written_it_works_all_the_same(backend, tmp_path, monkeypatch):
    monkeypatch.setenv(at_work.FOLDER, str(tmp_path / "nowhere"))
    (answer,) = tensors(backend, lambda images: [images.sum((1, 2, 3))]).execute([query()])
    assert answer.error is None
    assert at_work.at_work(tmp_path / "nowhere") == {}
