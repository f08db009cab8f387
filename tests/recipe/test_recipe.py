import dataclasses
import os
import subprocess
import sys
import tomllib

import pytest

from aaexport.errors import ArgumentError, RecipeError
from aaexport.folder import zoo_models
from aaexport.recipe import (
    DECOMPOSITION_NAMES,
    Attention,
    Cnn3,
    Data,
    Export,
    Input,
    Training,
    check_opset,
    read_recipe,
)

BASE = """
schema = 1
description = "A small network"

[network]
family = "cnn3"
channels = [8, 8, 8]
strides = [1, 2, 1]
kernel_size = 3

[attention]
kappa = 0.5
upsilon = 0.25
num_heads = 2
relative = true
qkv_kernel_size = 1
downsample_stages = []

[input]
channels = 3
height = 8
width = 6
mean = [0.1, 0.2, 0.3]
std = [0.5, 0.5, 0.5]
labels = ["a", "b", "c"]

[data]
dataset = "digits"
crop_padding = 1
flip = false

[training]
epochs = 3
batch_size = 64
optimizer = "sgd"
learning_rate = 0.05
momentum = 0.9
weight_decay = 0.0005
warmup_epochs = 1
label_smoothing = 0.1
gpu_precision = "float32"
seed = 0

[export]
opset = 20
decomposition = "table"
batch = "dynamic"
"""


WITH_DEFAULTS = (
    "channels = [8",
    "strides",
    "kernel_size",
    "relative",
    "qkv_kernel_size",
    "downsample_stages",
    "crop_padding",
    "flip",
    "optimizer",
    "momentum",
    "weight_decay",
    "warmup_epochs",
    "label_smoothing",
    "gpu_precision",
    "seed",
)


def changed(old, new):
    """BASE with one line's worth of text replaced; `old` is there exactly once."""
    assert BASE.count(old) == 1, old
    return BASE.replace(old, new)


@pytest.fixture
def recipe_of(tmp_path):
    """Reads a text as model.toml."""

    def read(text):
        path = tmp_path / "model.toml"
        path.write_text(text, encoding="utf-8")
        return read_recipe(path)

    return read


@pytest.fixture
def complaint_of(recipe_of, tmp_path):
    """What the RecipeError about a text says after the file's name."""

    def read(text):
        with pytest.raises(RecipeError) as refusal:
            recipe_of(text)
        return str(refusal.value).removeprefix(f"{tmp_path / 'model.toml'}: ")

    return read


# What is read


@pytest.mark.parametrize("name", ["aa_cnn3_cifar100", "aa_cnn3_digits", "conv_cnn3_cifar100", "conv_cnn3_digits"])
def test_the_zoo_has_the_model(name):
    assert name in zoo_models()


@pytest.mark.parametrize("folder", zoo_models().values(), ids=zoo_models().keys())
def test_every_recipe_of_the_zoo_holds_what_its_text_says(folder):
    text = tomllib.loads(folder.recipe_path.read_text(encoding="utf-8"))
    read = dataclasses.asdict(folder.recipe)

    def as_read(value):
        return tuple(value) if isinstance(value, list) else value

    for key, value in text.items():
        if isinstance(value, dict):
            assert {name: as_read(entry) for name, entry in value.items()}.items() <= read[key].items()
        else:
            assert read[key] == value


@pytest.mark.parametrize("folder", zoo_models().values(), ids=zoo_models().keys())
def test_a_recipe_of_the_zoo_has_attention_if_its_name_says_so(folder):
    assert (folder.recipe.attention is not None) == folder.name.startswith("aa_")


def test_every_key_ends_where_it_belongs(recipe_of):
    recipe = recipe_of(BASE)
    assert recipe.network == Cnn3(family="cnn3", channels=(8, 8, 8), strides=(1, 2, 1), kernel_size=3)
    assert recipe.attention == Attention(kappa=0.5, upsilon=0.25, num_heads=2)
    assert recipe.input == Input(
        channels=3, height=8, width=6, mean=(0.1, 0.2, 0.3), std=(0.5, 0.5, 0.5), labels=("a", "b", "c")
    )
    assert recipe.data == Data(dataset="digits", crop_padding=1, flip=False)
    assert recipe.training == Training(
        epochs=3, batch_size=64, learning_rate=0.05, warmup_epochs=1.0, label_smoothing=0.1, seed=0
    )
    assert recipe.export == Export(opset=20, decomposition="table", batch="dynamic")


def test_keys_with_defaults_can_be_left_out(recipe_of):
    lines = BASE[: BASE.index("[export]")].splitlines()
    required = [line for line in lines if not line.startswith(WITH_DEFAULTS)]
    assert recipe_of("\n".join(required)).export.opset is None


def test_without_attention_the_network_is_plain(recipe_of):
    start, end = BASE.index("[attention]"), BASE.index("[input]")
    assert recipe_of(BASE[:start] + BASE[end:]).attention is None


def test_a_whole_number_is_a_fine_number(recipe_of):
    rate = recipe_of(changed("learning_rate = 0.05", "learning_rate = 1")).training.learning_rate
    assert (rate, type(rate)) == (1.0, float)


@pytest.mark.parametrize("batch", [1, 7])
def test_a_fixed_batch_is_a_number(recipe_of, batch):
    assert recipe_of(changed('batch = "dynamic"', f"batch = {batch}")).export.batch == batch


@pytest.mark.parametrize("opset", [18, 25])
def test_the_outermost_opsets_are_taken(recipe_of, opset):
    assert recipe_of(changed("opset = 20", f"opset = {opset}")).export.opset == opset


# What is refused: (text of BASE, its replacement, the complaint)

UNKNOWN_OR_MISSING = {
    "unknown key": ("kappa = 0.5", "kapa = 0.5", "[attention] kapa is not a key; did you mean 'kappa'?"),
    "unknown key with the right one": (
        "seed = 0",
        "seed = 0\nsede = 1",
        "[training] sede is not a key; did you mean 'seed'?",
    ),
    "unknown key unlike any": (
        "flip = false",
        "zzz = 1",
        "[data] zzz is not a key; known: crop_padding, crop_share, dataset",
    ),
    "unknown table": ("[attention]", "[atention]", "atention is not a key; did you mean 'attention'?"),
    "unknown top key": ("schema = 1", "schema = 1\nauthor = 1", "author is not a key; "),
    "missing key": ("num_heads = 2\n", "", "[attention] num_heads is missing"),
    "missing schema": ("schema = 1\n", "", "schema is missing"),
    "missing description": ('description = "A small network"\n', "", "description is missing"),
    "missing family": ('family = "cnn3"\n', "", "[network] family is missing"),
    "unknown family": (
        '"cnn3"',
        '"cnn4"',
        "[network] family must be a known family, got 'cnn4'; did you mean 'cnn3'?",
    ),
    "family of another type": ('"cnn3"', "3", "[network] family must be a known family, got 3"),
}

WRONG_TYPES = {
    "bool for int": ("num_heads = 2", "num_heads = true", "[attention] num_heads must be a whole number, got True"),
    "bool for schema": ("schema = 1", "schema = true", "schema must be a whole number, got True"),
    "bool for number": ("kappa = 0.5", "kappa = true", "[attention] kappa must be a number, got True"),
    "text for number": ("kappa = 0.5", 'kappa = "0.5"', "[attention] kappa must be a number, got '0.5'"),
    "text for int": ("epochs = 3\nb", 'epochs = "3"\nb', "[training] epochs must be a whole number, got '3'"),
    "float for int": ("seed = 0", "seed = 0.0", "[training] seed must be a whole number, got 0.0"),
    "int for bool": ("relative = true", "relative = 1", "[attention] relative must be true or false, got 1"),
    "text for bool": ("flip = false", 'flip = "no"', "[data] flip must be true or false, got 'no'"),
    "number for text": ('"A small network"', "7", "description must be a text, got 7"),
    "number for a list": ("channels = [8, 8, 8]", "channels = 8", "[network] channels must be a list, got 8"),
    "float in a list of int": ("[8, 8, 8]", "[8, 8.5, 8]", "[network] channels must be a whole number, got 8.5"),
    "bool in a list of int": ("[1, 2, 1]", "[1, true, 1]", "[network] strides must be a whole number, got True"),
    "text in a list of number": ("[0.1, 0.2, 0.3]", '[0.1, "x", 0.3]', "[input] mean must be a number, got 'x'"),
    "number in a list of text": ('["a", "b", "c"]', '["a", 2, "c"]', "[input] labels must be a text, got 2"),
    "list for number": ("kappa = 0.5", "kappa = [0.5]", "[attention] kappa must be a number, got [0.5]"),
    "date for number": ("kappa = 0.5", "kappa = 2019-04-22", "[attention] kappa must be a number, got 2019-04-22"),
    "bool for a batch": ('batch = "dynamic"', "batch = true", "[export] batch must be a whole number"),
    "nan": ("learning_rate = 0.05", "learning_rate = nan", "[training] learning_rate must be finite, got nan"),
    "inf": ("learning_rate = 0.05", "learning_rate = inf", "[training] learning_rate must be finite, got inf"),
    "nan in a list": ("[0.1, 0.2, 0.3]", "[0.1, nan, 0.3]", "[input] mean must be finite, got nan"),
    "infinite kappa": ("kappa = 0.5", "kappa = inf", "[attention] kappa must be finite, got inf"),
}

OUT_OF_RANGE = {
    "schema 2": ("schema = 1", "schema = 2", "schema must be 1, got 2; update aaexport"),
    "two channels": ("[8, 8, 8]", "[8, 8]", "[network] channels must be three numbers ≥ 1, got (8, 8)"),
    "no channels": ("[8, 8, 8]", "[]", "[network] channels must be three numbers ≥ 1, got ()"),
    "channel 0": ("[8, 8, 8]", "[8, 0, 8]", "[network] channels must be three numbers ≥ 1, got (8, 0, 8)"),
    "stride 3": ("[1, 2, 1]", "[1, 3, 1]", "[network] strides must be three numbers, each 1 or 2, got (1, 3, 1)"),
    "four strides": (
        "[1, 2, 1]",
        "[1, 2, 1, 1]",
        "[network] strides must be three numbers, each 1 or 2, got (1, 2, 1, 1)",
    ),
    "even kernel": (
        "\nkernel_size = 3",
        "\nkernel_size = 4",
        "[network] kernel_size must be odd and positive, got 4",
    ),
    "kernel below 0": (
        "\nkernel_size = 3",
        "\nkernel_size = -3",
        "[network] kernel_size must be odd and positive, got -3",
    ),
    "kappa 0": ("kappa = 0.5", "kappa = 0", "[attention] kappa must be above 0, got 0.0"),
    "upsilon 0": ("upsilon = 0.25", "upsilon = 0.0", "[attention] upsilon must be above 0 and at most 1, got 0.0"),
    "upsilon 1.5": ("upsilon = 0.25", "upsilon = 1.5", "[attention] upsilon must be above 0 and at most 1, got 1.5"),
    "no head": ("num_heads = 2", "num_heads = 0", "[attention] num_heads must be at least 1, got 0"),
    "even queries": ("qkv_kernel_size = 1", "qkv_kernel_size = 2", "[attention] qkv_kernel_size must be odd, got 2"),
    "a stage there is not": (
        "downsample_stages = []",
        "downsample_stages = [4]",
        "[attention] downsample_stages must be stages of the network, 1 to 3, got (4,)",
    ),
    "stage 0": (
        "downsample_stages = []",
        "stages = [0]",
        "[attention] stages must be stages of the network, 1 to 3, got (0,)",
    ),
    "a plain stage downsampled": (
        "downsample_stages = []",
        "stages = [1, 2]\ndownsample_stages = [3]",
        "[attention] downsample_stages must be augmented stages, some of [1, 2], got (3,)",
    ),
    "unknown layers": (
        "downsample_stages = []",
        'layers = "all"',
        "[attention] layers must be one of one-per-block, every, got 'all'",
    ),
    "unknown head layout": (
        "downsample_stages = []",
        'head_layout = "mixed"',
        "[attention] head_layout must be one of permuted, unpermuted, got 'mixed'",
    ),
    "keys of no dimension": (
        "downsample_stages = []",
        "min_dkh = 0",
        "[attention] min_dkh must be at least 1 and at most 1024, got 0",
    ),
    "keys of too many dimensions": (
        "downsample_stages = []",
        "min_dkh = 100000000",
        "[attention] min_dkh must be at least 1 and at most 1024, got 100000000",
    ),
    "a stage twice": (
        "downsample_stages = []",
        "stages = [1, 1]",
        "[attention] stages must name every stage once, got (1, 1)",
    ),
    "every layer of another family": (
        "downsample_stages = []",
        'layers = "every"',
        "[attention] layers must be 'one-per-block' but in a wide_resnet, got 'every'",
    ),
    "more classes than there are words": (
        '["a", "b", "c"]',
        "2000000000",
        "[input] labels must count at most 1000000 classes, got 2000000000",
    ),
    "an image below the stride": (
        "width = 6",
        "width = 1",
        "[input] width must be at least 2, the network's stride, got 1; use larger images or a smaller stride",
    ),
    "a giant image": ("height = 8", "height = 100000", "[input] height must be at most 65536, got 100000"),
    "labels that are one text": (
        '["a", "b", "c"]',
        '"abc"',
        "[input] labels must be a list or be a whole number, got 'abc'",
    ),
    "one class by number": (
        '["a", "b", "c"]',
        "1",
        "[input] labels must name or count at least 2 classes, got 1",
    ),
    "two ways to crop": (
        "crop_padding = 1",
        "crop_padding = 1\nrandom_resized_crop = true",
        "[data] crop_padding must be 0 beside random_resized_crop, got 1",
    ),
    "crop share 0": ("flip = false", "crop_share = 0", "[data] crop_share must be above 0 and at most 1, got 0.0"),
    "milestones of a cosine": (
        "seed = 0",
        "milestones = [2]",
        "[training] milestones must be given for the schedule 'step', and for it alone, got (2,)",
    ),
    "a staircase without steps": (
        "seed = 0",
        'schedule = "step"',
        "[training] milestones must be given for the schedule 'step', and for it alone, got ()",
    ),
    "descending milestones": (
        "seed = 0",
        'schedule = "step"\nmilestones = [2, 1]',
        "[training] milestones must be epochs in ascending order, got (2, 1)",
    ),
    "step factor 1": ("seed = 0", "step_factor = 1", "[training] step_factor must be above 0 and below 1, got 1.0"),
    "an average of nothing": (
        "seed = 0",
        "ema_decay = 1",
        "[training] ema_decay must be at least 0 and below 1, got 1.0",
    ),
    "input channels 0": ("\nchannels = 3", "\nchannels = 0", "[input] channels must be at least 1, got 0"),
    "height 0": ("height = 8", "height = 0", "[input] height must be at least 1, got 0"),
    "width below 0": ("width = 6", "width = -6", "[input] width must be at least 1, got -6"),
    "short mean": ("[0.1, 0.2, 0.3]", "[0.1]", "[input] mean must hold 3 numbers, one a channel, got (0.1,)"),
    "long std": (
        "[0.5, 0.5, 0.5]",
        "[1, 1, 1, 1]",
        "[input] std must hold 3 numbers, one a channel, got (1.0, 1.0, 1.0, 1.0)",
    ),
    "std 0": ("[0.5, 0.5, 0.5]", "[0.5, 0, 0.5]", "[input] std must be above 0, got (0.5, 0.0, 0.5)"),
    "one class": ('["a", "b", "c"]', '["a"]', "[input] labels must name or count at least 2 classes, got ('a',)"),
    "a class twice": (
        '["a", "b", "c"]',
        '["a", "b", "a"]',
        "[input] labels must name every class once, got ('a', 'b', 'a')",
    ),
    "crop below 0": ("crop_padding = 1", "crop_padding = -1", "[data] crop_padding must be at least 0, got -1"),
    "no epoch": ("\nepochs = 3", "\nepochs = 0", "[training] epochs must be at least 1, got 0"),
    "no image a batch": ("batch_size = 64", "batch_size = 0", "[training] batch_size must be at least 1, got 0"),
    "unknown optimizer": ('"sgd"', '"adam"', "[training] optimizer must be one of sgd, adamw, got 'adam'"),
    "rate 0": ("learning_rate = 0.05", "learning_rate = 0", "[training] learning_rate must be above 0, got 0.0"),
    "momentum 1": ("momentum = 0.9", "momentum = 1", "[training] momentum must be at least 0 and below 1, got 1.0"),
    "decay below 0": (
        "weight_decay = 0.0005",
        "weight_decay = -1",
        "[training] weight_decay must be at least 0, got -1.0",
    ),
    "long warm-up": (
        "warmup_epochs = 1",
        "warmup_epochs = 4",
        "[training] warmup_epochs must be between 0 and epochs, got 4.0",
    ),
    "smoothing 1": (
        "label_smoothing = 0.1",
        "label_smoothing = 1.0",
        "[training] label_smoothing must be at least 0 and below 1, got 1.0",
    ),
    "unknown precision": (
        '"float32"',
        '"float64"',
        "[training] gpu_precision must be one of float32, bfloat16, float16, got 'float64'",
    ),
    "seed below 0": ("seed = 0", "seed = -1", "[training] seed must be at least 0, got -1"),
    "opset 26": ("opset = 20", "opset = 26", "[export] opset must be between 18 and 25, got 26"),
    "opset 17": ("opset = 20", "opset = 17", "[export] opset must be between 18 and 25, got 17"),
    "unknown decomposition": (
        '"table"',
        '"tabel"',
        f"[export] decomposition must be one of {', '.join(DECOMPOSITION_NAMES)}, got 'tabel'",
    ),
    "batch 0": ('"dynamic"', "0", "[export] batch must be 'dynamic' or at least 1, got 0"),
    "batch misspelt": (
        '"dynamic"',
        '"dinamic"',
        "[export] batch must be a whole number or be one of dynamic, got 'dinamic'",
    ),
}

RESNET = ('family = "cnn3"\nchannels = [8, 8, 8]\nstrides = [1, 2, 1]\nkernel_size = 3\n',
          'family = "resnet"\nblock = "basic"\nblocks = [1, 1]\nstem = "3x3"\n')  # fmt: skip
WIDE = (RESNET[0], 'family = "wide_resnet"\ndepth = 10\n')
MNASNET = (RESNET[0], 'family = "mnasnet"\n')
OF_FAMILIES = {
    "resnet without blocks": (RESNET, "[1, 1]", "[]", "[network] blocks must have 1 to 8 stages, got ()"),
    "resnet with an empty stage": (
        RESNET,
        "[1, 1]",
        "[1, 0]",
        "[network] blocks must give every stage at least 1 block, got (1, 0)",
    ),
    "resnet of another block": (
        RESNET,
        '"basic"',
        '"wide"',
        "[network] block must be one of basic, bottleneck, got 'wide'",
    ),
    "resnet of no width": (
        RESNET,
        '"3x3"',
        '"3x3"\nwidth = 0',
        "[network] width must give every layer 1 to 65536 channels, got 0",
    ),
    "resnet for larger images": (
        RESNET,
        '"3x3"',
        '"7x7"',
        "[input] width must be at least 8, the network's stride, got 6",
    ),
    "features of a stage there is not": (
        RESNET,
        '"3x3"',
        '"3x3"\nfeatures = [3]',
        "[network] features must be stages, 1 to 2, got (3,)",
    ),
    "features out of order": (
        RESNET,
        '"3x3"',
        '"3x3"\nfeatures = [2, 1]',
        "[network] features must name stages once, in ascending order, got (2, 1)",
    ),
    "features that are trained": (
        RESNET,
        '"3x3"',
        '"3x3"\nfeatures = [2]',
        "training must be left out for a network that returns features; train its classifier",
    ),
    "wide resnet of depth 12": (WIDE, "= 10", "= 12", "[network] depth must be 6·n + 4, at least 10, got 12"),
    "wide resnet of depth 4": (WIDE, "= 10", "= 4", "[network] depth must be 6·n + 4, at least 10, got 4"),
    "wide resnet of factor 0": (
        WIDE,
        "= 10",
        "= 10\nwiden_factor = 0",
        "[network] widen_factor must be at least 1, got 0",
    ),
    "wide resnet that drops all": (
        WIDE,
        "= 10",
        "= 10\ndropout = 1",
        "[network] dropout must be at least 0 and below 1, got 1.0",
    ),
    "mnasnet of five stages": (
        MNASNET,
        '"mnasnet"',
        '"mnasnet"\nblocks = [1, 1, 1, 1, 1]',
        "[network] blocks must be six numbers, one a stage, got (1, 1, 1, 1, 1)",
    ),
    "mnasnet of no width": (
        MNASNET,
        '"mnasnet"',
        '"mnasnet"\nwidth_multiplier = 0',
        "[network] width_multiplier must be above 0, got 0.0",
    ),
    "mnasnet for larger images": (
        MNASNET,
        '"mnasnet"',
        '"mnasnet"',
        "[input] height must be at least 32, the network's stride, got 8",
    ),
}


@pytest.mark.parametrize(("family", "old", "new", "complaint"), OF_FAMILIES.values(), ids=OF_FAMILIES.keys())
def test_a_bad_network_is_refused_by_key_rule_and_value(complaint_of, family, old, new, complaint):
    assert complaint_of(changed(family[0], family[1].replace(old, new))).startswith(complaint)


def test_a_classifier_without_training_is_refused(complaint_of):
    start, end = BASE.index("[training]"), BASE.index("[export]")
    assert complaint_of(BASE[:start] + BASE[end:]) == "training is missing"


def test_features_have_no_labels(complaint_of):
    start, end = BASE.index("[training]"), BASE.index("[export]")
    features = BASE[:start] + BASE[end:]
    complaint = complaint_of(features.replace(RESNET[0], f"{RESNET[1]}features = [2]\n"))
    assert complaint.startswith("[input] labels must be left out: the network returns features, got ('a', 'b', 'c')")


def test_a_recipe_retargeted_differs_in_size_alone(recipe_of):
    recipe = recipe_of(BASE)
    larger = recipe.for_size((12, 20))
    assert larger.input.shape == (3, 12, 20)
    assert larger.for_size((8, 6)) == recipe
    assert recipe.for_size(None) is recipe


def test_a_recipe_is_not_retargeted_below_the_stride(recipe_of):
    with pytest.raises(
        ArgumentError, match=r"^size: height must be at least 2, the network's stride, got 1; ask for"
    ):
        recipe_of(BASE).for_size((1, 8))


BAD = UNKNOWN_OR_MISSING | WRONG_TYPES | OUT_OF_RANGE


@pytest.mark.parametrize(("old", "new", "complaint"), BAD.values(), ids=BAD.keys())
def test_a_bad_recipe_is_refused_by_key_rule_and_value(complaint_of, old, new, complaint):
    assert complaint_of(changed(old, new)).startswith(complaint)


def test_of_several_unknown_keys_the_first_is_named(complaint_of):
    unknown = "\n".join(f"unknown_{letter} = 1" for letter in "qwertyuiop")
    assert complaint_of(changed("kappa = 0.5", f"kappa = 0.5\n{unknown}")).startswith(
        "[attention] unknown_q is not a key"
    )


@pytest.mark.parametrize("table", ["network", "input", "data", "training"])
def test_a_missing_table_is_refused_by_name(complaint_of, table):
    start = BASE.index(f"[{table}]")
    complaint = complaint_of(BASE[:start] + BASE[BASE.find("\n[", start) + 1 :])
    assert table in complaint and "is missing" in complaint


@pytest.mark.parametrize("table", ["attention", "input", "data", "training", "export"])
def test_a_value_where_a_table_belongs_is_refused_by_name(complaint_of, table):
    start = BASE.index(f"[{table}]")
    end = BASE.find("\n[", start)
    text = BASE[:start] + (BASE[end + 1 :] if end >= 0 else "")
    assert complaint_of(f"{table} = 3\n{text}").startswith(f"{table} must be a table [{table}], got 3")


def test_a_refusal_names_the_file(recipe_of, tmp_path):
    with pytest.raises(RecipeError) as refusal:
        recipe_of(changed("kappa = 0.5", "kappa = 0"))
    assert str(tmp_path / "model.toml") in str(refusal.value)


def test_a_refusal_is_one_line(complaint_of):
    assert "\n" not in complaint_of(changed("kappa = 0.5", "kappa ="))


def test_a_syntax_error_names_line_and_column(complaint_of):
    line = BASE.splitlines().index("kappa = 0.5") + 1
    complaint = complaint_of(changed("kappa = 0.5", "kappa = = 0.5"))
    assert f"(at line {line}, column 9)" in complaint


def test_a_syntax_error_names_the_file(recipe_of, tmp_path):
    with pytest.raises(RecipeError) as refusal:
        recipe_of("[")
    assert str(refusal.value).startswith(f"{tmp_path / 'model.toml'} must be TOML, but: ")


def test_a_recipe_that_is_no_utf_8_is_refused_by_file(tmp_path):
    path = tmp_path / "model.toml"
    path.write_bytes(BASE.replace("A small", "Ein kleines, schönes").encode("latin-1"))
    with pytest.raises(RecipeError) as refusal:
        read_recipe(path)
    assert str(path) in str(refusal.value)


@pytest.mark.parametrize("name", ["none.toml", "."], ids=["missing", "a folder"])
def test_a_recipe_that_cannot_be_read_is_refused_by_file(tmp_path, name):
    with pytest.raises(RecipeError) as refusal:
        read_recipe(tmp_path / name)
    assert str(tmp_path / name) in str(refusal.value)


def test_a_seed_that_no_generator_takes_is_refused(complaint_of):
    assert complaint_of(changed("seed = 0", f"seed = {2**64}")).startswith("[training] seed must ")


def test_a_whole_number_beyond_all_floats_is_refused(complaint_of):
    complaint = complaint_of(changed("learning_rate = 0.05", f"learning_rate = 1{'0' * 400}"))
    assert complaint.startswith("[training] learning_rate must be finite")


@pytest.mark.parametrize("opset", [17, 26])
def test_an_opset_that_the_exporter_does_not_write_is_refused(opset):
    with pytest.raises(ArgumentError) as refusal:
        check_opset(opset)
    assert str(refusal.value).startswith(f"opset must be between 18 and 25, got {opset}; ")


# The digest

OF_THE_FUNCTION = {
    "channels": ("[8, 8, 8]", "[8, 8, 16]"),
    "strides": ("[1, 2, 1]", "[2, 1, 1]"),
    "kernel_size": ("\nkernel_size = 3", "\nkernel_size = 5"),
    "kappa": ("kappa = 0.5", "kappa = 0.6"),
    "num_heads": ("num_heads = 2", "num_heads = 1"),
    "relative": ("relative = true", "relative = false"),
    "downsample_stages": ("downsample_stages = []", "downsample_stages = [1]"),
    "stages": ("downsample_stages = []", "stages = [1, 2]"),
    "head_layout": ("downsample_stages = []", 'head_layout = "unpermuted"'),
    "height": ("height = 8", "height = 9"),
    "mean": ("[0.1, 0.2, 0.3]", "[0.1, 0.2, 0.4]"),
    "labels": ('["a", "b", "c"]', '["a", "c", "b"]'),
}
BESIDE_IT = {
    "description": ("A small network", "Another"),
    "dataset": ('"digits"', '"cifar10"'),
    "flip": ("flip = false", "flip = true"),
    "epochs": ("\nepochs = 3", "\nepochs = 4"),
    "seed": ("seed = 0", "seed = 1"),
    "learning_rate": ("learning_rate = 0.05", "learning_rate = 0.1"),
    "opset": ("opset = 20", "opset = 21"),
    "decomposition": ('"table"', '"skew"'),
    "order of keys": ("kappa = 0.5\nupsilon = 0.25", "upsilon = 0.25\nkappa = 0.5"),
    "comment": ("schema = 1", "schema = 1  # the first"),
    "a default that is written out": ("downsample_stages = []", 'head_layout = "permuted"'),
    "spelling of a number": ("kappa = 0.5", "kappa = 5e-1"),
}


@pytest.mark.parametrize(("old", "new"), OF_THE_FUNCTION.values(), ids=OF_THE_FUNCTION.keys())
def test_the_digest_changes_with_what_decides_the_function(recipe_of, old, new):
    assert recipe_of(changed(old, new)).digest() != recipe_of(BASE).digest()


@pytest.mark.parametrize(("old", "new"), BESIDE_IT.values(), ids=BESIDE_IT.keys())
def test_the_digest_does_not_change_with_the_rest(recipe_of, old, new):
    assert recipe_of(changed(old, new)).digest() == recipe_of(BASE).digest()


def test_the_digest_changes_when_attention_goes(recipe_of):
    start, end = BASE.index("[attention]"), BASE.index("[input]")
    assert recipe_of(BASE[:start] + BASE[end:]).digest() != recipe_of(BASE).digest()


def test_two_reads_of_a_text_have_the_same_digest(recipe_of):
    assert recipe_of(BASE).digest() == recipe_of(BASE).digest()


@pytest.mark.parametrize("hash_seed", ["1", "2"])
def test_another_process_computes_the_same_digest(recipe_of, tmp_path, hash_seed):
    digest = recipe_of(BASE).digest()
    code = "import sys, pathlib, aaexport.recipe as r; print(r.read_recipe(pathlib.Path(sys.argv[1])).digest())"
    command = [sys.executable, "-c", code, str(tmp_path / "model.toml")]
    environment = os.environ | {"PYTHONHASHSEED": hash_seed}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == digest
