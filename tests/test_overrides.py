"""The options of the verbs: dataclasses and keywords that agree, at run time and for a type checker."""

import dataclasses
import inspect
import typing

import mypy.api
import pytest

import aaexport
from aaexport.errors import ArgumentError
from aaexport.pipeline.bench.options import BenchOverrides
from aaexport.pipeline.convert.options import ConvertOverrides, OptimizeOverrides
from aaexport.pipeline.tune.options import TuneOverrides
from aaexport.pipeline.verify.options import VerifyOverrides
from aaexport.training import TrainOverrides

# Of each verb: what it takes as a value, and the same as keywords.
VERBS = {
    "compare_training": (aaexport.TrainOptions, TrainOverrides),
    "convert": (aaexport.ConvertOptions, ConvertOverrides),
    "convert_source": (aaexport.ConvertOptions, ConvertOverrides),
    "optimize": (aaexport.OptimizeOptions, OptimizeOverrides),
    "serve_bench": (aaexport.BenchOptions, BenchOverrides),
    "train": (aaexport.TrainOptions, TrainOverrides),
    "tune": (aaexport.TuneOptions, TuneOverrides),
    "verify": (aaexport.VerifyOptions, VerifyOverrides),
}
# What the verbs themselves import is none of this, and takes a minute to check.
SETTINGS = """
[mypy]
follow_imports = silent
[mypy-torch.*,numpy.*,onnx.*,onnxruntime.*,onnxscript.*,rich.*,click.*,datasets.*,safetensors.*,google.*,PIL.*]
follow_imports = skip
follow_imports_for_stubs = True
"""


def of_options(options):
    """The dataclass's fields and what it takes for them."""
    hints = typing.get_type_hints(options)
    return {field.name: hints[field.name] for field in dataclasses.fields(options)}


@pytest.mark.parametrize("name", VERBS)
def test_options_and_keywords_have_the_same_names_and_types(name):
    options, keywords = VERBS[name]
    assert typing.get_type_hints(keywords) == of_options(options)
    assert keywords.__required_keys__ == frozenset()


@pytest.mark.parametrize("name", VERBS)
def test_a_verb_takes_its_options_as_a_value_or_as_keywords(name):
    options, keywords = VERBS[name]
    parameters = inspect.signature(getattr(aaexport, name)).parameters
    hints = typing.get_type_hints(getattr(aaexport, name))
    assert hints["options"] == options | None
    assert parameters["overrides"].kind is inspect.Parameter.VAR_KEYWORD
    assert hints["overrides"] == typing.Unpack[keywords]


@pytest.mark.parametrize("name", VERBS)
def test_options_are_immutable_and_have_a_default_each(name):
    options, _ = VERBS[name]
    with pytest.raises(dataclasses.FrozenInstanceError):
        options().seed = 1


def test_every_verb_with_options_is_one_of_these():
    with_options = {
        name
        for name in aaexport.__all__
        if inspect.isfunction(verb := getattr(aaexport, name)) and "overrides" in inspect.signature(verb).parameters
    }
    assert with_options == set(VERBS)


@pytest.mark.parametrize("name", VERBS)
def test_a_misspelt_keyword_is_refused_with_the_right_one(name):
    with pytest.raises(ArgumentError) as refusal:
        getattr(aaexport, name)("nothing", *["nothing"][: name == "optimize"], seeed=1)
    rule = f"an argument of {name} must be one that it has, got 'seeed'"
    assert str(refusal.value) == f"{rule}; did you mean 'seed'?"


def test_a_keyword_of_the_verb_itself_is_suggested_too():
    with pytest.raises(ArgumentError, match=r"got 'tik'; did you mean 'tick'\?"):
        aaexport.serve_bench("nothing", tik=print)


@pytest.fixture
def checked(tmp_path, cache):
    """The complaints of mypy about lines of code that use the package."""

    def check(*lines):
        (tmp_path / "mypy.ini").write_text(SETTINGS)
        (tmp_path / "snippet.py").write_text("\n".join(("import aaexport", *lines)))
        kept = ("--cache-dir", str(cache.mkdir("mypy")))  # the second time it takes a second
        out, err, _ = mypy.api.run(
            ["--config-file", str(tmp_path / "mypy.ini"), *kept, "--no-error-summary", str(tmp_path / "snippet.py")]
        )
        assert err == ""
        return [line for line in out.splitlines() if "error:" in line]

    return check


def test_a_type_checker_finds_a_misspelt_keyword_and_a_wrong_type(checked):
    wrong = {
        "aaexport.serve_bench('m', duratoin=1)": '"duratoin"',
        "aaexport.serve_bench('m', threads='two')": '"threads"',
        "aaexport.optimize('a', 'b', taget='cuda')": '"taget"',
        "aaexport.train('m', epoch=1)": '"epoch"',
        "aaexport.verify('m', runtime=('onnxruntime',))": '"runtime"',
        "aaexport.verify('m', dtype='float')": '"dtype"',
        "aaexport.convert('m', verfy=False)": '"verfy"',
        "aaexport.convert('m', decomposition='skewed')": '"decomposition"',
        "aaexport.convert_source('f.py:N', opsett=18)": '"opsett"',
        "aaexport.tune('m', thread=1)": '"thread"',
        "aaexport.compare_training(['a', 'b'], epochs='3')": '"epochs"',
    }
    right = (
        "report = aaexport.serve_bench('m', aaexport.BenchOptions(threads=2), duration=1)",
        "aaexport.optimize('a', 'b', options=aaexport.OptimizeOptions(target='cuda'), verify=False)",
        "aaexport.train('m', epochs=3, size=(32, 32))",
        "aaexport.verify('m', 'x.onnx', input_shape=(1, 8, 8), atol={'logits': 1e-5}, say=print)",
        "aaexport.verify('m', options=aaexport.VerifyOptions(strict=True), batch=64)",
        "aaexport.convert('m', 'x.onnx', input_shape=(1, 8, 8), batch='dynamic', opset=18)",
        "aaexport.convert_source('f.py:N', options=aaexport.ConvertOptions(opset=18), input_shape=(1, 8, 8))",
        "aaexport.tune('m', options=aaexport.TuneOptions(threads=1), duration=0.5)",
        "aaexport.compare_training(['a', 'b'], options=aaexport.TrainOptions(epochs=3))",
        "share: bool = report.valid",
    )
    complaints = checked(*right, *wrong)
    first = 2 + len(right)
    assert [int(line.split(":")[1]) for line in complaints] == list(range(first, first + len(wrong)))
    for line, word in zip(complaints, wrong.values(), strict=True):
        assert word in line
