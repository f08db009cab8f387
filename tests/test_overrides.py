"""The options of the verbs: dataclasses and keywords that agree; typed_calls.py is for type checkers."""

import dataclasses
import inspect
import typing

import pytest

import aaexport
from aaexport.errors import ArgumentError
from aaexport.pipeline.bench.options import BenchOverrides
from aaexport.pipeline.convert.options import ConvertOverrides, OptimizeOverrides
from aaexport.pipeline.deploy.options import DeployOverrides
from aaexport.pipeline.tune.options import TuneOverrides
from aaexport.pipeline.verify.options import VerifyOverrides
from aaexport.training import TrainOverrides

# Of each verb: what it takes as a value, and the same as keywords.
VERBS = {
    "compare_training": (aaexport.TrainOptions, TrainOverrides),
    "convert": (aaexport.ConvertOptions, ConvertOverrides),
    "convert_source": (aaexport.ConvertOptions, ConvertOverrides),
    "deploy": (aaexport.DeployOptions, DeployOverrides),
    "optimize": (aaexport.OptimizeOptions, OptimizeOverrides),
    "serve_bench": (aaexport.BenchOptions, BenchOverrides),
    "train": (aaexport.TrainOptions, TrainOverrides),
    "tune": (aaexport.TuneOptions, TuneOverrides),
    "verify": (aaexport.VerifyOptions, VerifyOverrides),
}


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
    others = {"optimize": 1, "deploy": 2}.get(name, 0)  # that must be given beside the model
    right = "images" if name == "deploy" else "seed"
    wrong = right[:2] + right[1:]
    with pytest.raises(ArgumentError) as refusal:
        getattr(aaexport, name)("nothing", *["nothing"] * others, **{wrong: 1})
    rule = f"an argument of {name} must be one that it has, got {wrong!r}"
    assert str(refusal.value) == f"{rule}; did you mean {right!r}?"


def test_a_keyword_of_the_verb_itself_is_suggested_too():
    with pytest.raises(ArgumentError, match=r"got 'tik'; did you mean 'tick'\?"):
        aaexport.serve_bench("nothing", tik=print)
