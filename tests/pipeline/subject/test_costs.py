"""What the zoo's networks cost: facts that were counted once, held to what is counted now."""

import dataclasses
import json

import pytest
from folders import edited, tiny_folder

import aaexport
from aaexport.errors import FolderError
from aaexport.folder import open_folder, zoo_models
from aaexport.pipeline.subject import costs
from aaexport.pipeline.subject.costs import costs_path, counted_cost, write_zoo_costs, zoo_costs

QUICK = ("aa_cnn3_digits", "aa_wrn10_1_digits", "resnet20_cifar10", "aa_mnasnet_1_0")


@pytest.mark.parametrize(
    "name", [name if name in QUICK else pytest.param(name, marks=pytest.mark.slow) for name in zoo_models()]
)
def test_a_zoo_model_costs_what_is_written_beside_the_zoo(name):
    recipe = zoo_models()[name].recipe
    assert zoo_costs()[recipe.digest()] == counted_cost(recipe)


def test_every_zoo_model_as_it_is_now_has_its_cost_and_nothing_else_has():
    """A changed model.toml has another digest: `make costs` counts anew."""
    written = json.loads(costs_path().read_text())["models"]
    assert {name: entry["recipe_digest"] for name, entry in written.items()} == {
        name: folder.recipe.digest() for name, folder in zoo_models().items()
    }


def test_the_costs_of_the_zoo_are_not_counted_again(monkeypatch):
    monkeypatch.setattr(costs, "counted_cost", lambda recipe: pytest.fail("counted"))
    assert aaexport.inspect("aa_cnn3_digits").cost.parameters == 268_146


def test_a_recipe_that_nobody_knows_is_counted(tmp_path):
    folder = tiny_folder(tmp_path / "tiny")
    assert folder.recipe.digest() not in zoo_costs()
    assert aaexport.inspect(folder).cost == counted_cost(folder.recipe)


def test_another_size_is_another_recipe():
    recipe = zoo_models()["aa_cnn3_digits"].recipe
    assert recipe.for_size((16, 16)).digest() not in zoo_costs()
    assert counted_cost(recipe.for_size((16, 16))).macs > counted_cost(recipe).macs


def test_what_convert_recorded_is_not_counted_again(converted, monkeypatch):
    cost = counted_cost(converted.recipe)
    monkeypatch.setattr(costs, "counted_cost", lambda recipe: pytest.fail("counted"))
    assert aaexport.inspect(converted.path).cost == cost


def test_a_record_is_kept_by_whoever_writes_the_manifest_next(converted):
    before = converted.recorded_cost()
    converted.write_manifest()
    assert converted.recorded_cost() == before == counted_cost(converted.recipe)


def test_a_record_of_another_recipe_is_none(converted):
    edited(converted, "channels = [8, 8, 8]", "channels = [8, 8, 16]")
    changed = open_folder(converted.path)
    assert changed.recorded_cost() is None
    assert aaexport.inspect(changed).cost == counted_cost(changed.recipe)
    changed.write_manifest()
    assert "cost" not in json.loads(changed.manifest_path.read_text())


def test_a_record_of_another_aaexport_is_none(converted):
    text = converted.manifest_path.read_text().replace('"aaexport": "', '"aaexport": "0.0.')
    converted.manifest_path.write_text(text)
    assert converted.recorded_cost() is None


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"cost": 1}', '{"cost": {"macs": 1}, "tools": {}}'])
def test_a_manifest_that_is_broken_records_nothing(converted, text):
    converted.manifest_path.write_text(text)
    assert converted.recorded_cost() is None


def test_what_is_counted_anew_is_what_is_read_afterwards(tmp_path, monkeypatch):
    one = {"aa_cnn3_digits": zoo_models()["aa_cnn3_digits"]}
    monkeypatch.setattr(costs, "zoo_models", lambda: one)
    monkeypatch.setattr(costs, "costs_path", lambda: tmp_path / "costs.json")
    before = zoo_models()["aa_cnn3_digits"].recipe
    write_zoo_costs()
    assert {digest: dataclasses.asdict(cost) for digest, cost in zoo_costs().items()} == {
        before.digest(): dataclasses.asdict(counted_cost(before))
    }


@pytest.mark.parametrize("text", [None, "", "[]", "{}", '{"models": {"a": {}}}', '{"models": {"a": {"macs": 1}}}'])
def test_a_broken_file_of_costs_is_named(tmp_path, monkeypatch, text):
    monkeypatch.setattr(costs, "costs_path", lambda: tmp_path / "costs.json")
    if text is not None:
        (tmp_path / "costs.json").write_text(text)
    with pytest.raises(FolderError, match=r"costs\.json must hold the costs of the zoo, got"):
        zoo_costs()
