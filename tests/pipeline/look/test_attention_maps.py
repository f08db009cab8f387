"""Attention weights: equal to the definition's, as outputs of an export, and drawn over an image."""

import dataclasses
import json
import sys
from xml.etree import ElementTree

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from definition import attention
from folders import tiny_folder
from outcomes import error_of
from PIL import Image
from torch import nn
from torch.testing import assert_close

import aaexport
from aaexport.data import SOURCES, DecodedImages, evaluation_batch, read_image
from aaexport.data.image_folder import ImagePaths
from aaexport.errors import ArgumentError, DataError
from aaexport.folder import find_model, open_folder
from aaexport.nn import AugmentedConv2d, attention_weights, set_decomposition
from aaexport.nn.attention_maps import WithAttention, attention_outputs
from aaexport.nn.relative import DECOMPOSITIONS, with_weights
from aaexport.pipeline.bench.worker_models import WorkerSpec, load
from aaexport.pipeline.export.plan import plan_attention
from aaexport.pipeline.subject.subject import build_model
from aaexport.report.attention import listed
from aaexport.weights.safetensors import save_weights

EXACT = {"rtol": 1e-12, "atol": 1e-12}
HEADS = tuple(f"attention.features.{layer}.head{head}" for layer in (0, 3, 6) for head in (0, 1))

every_decomposition = pytest.mark.parametrize("name", DECOMPOSITIONS)
every_split = pytest.mark.parametrize("blocks", [1, 3, 12])


def maps_and_tables(relative=True):
    """q, k, v of three maps of 3 × 4 positions, and the tables, in float64."""
    generator = torch.Generator().manual_seed(0)
    shapes = ((3, 5, 3, 4), (3, 5, 3, 4), (3, 2, 3, 4), (5, 5), (7, 5))
    q, k, v, *tables = (torch.randn(shape, generator=generator, dtype=torch.float64) for shape in shapes)
    return (q, k, v, *tables) if relative else (q, k, v, None, None)


def weights_by_definition(q, k, rel_height, rel_width):
    """(M, N, N): what the definition's loops make of values that are 1 at one key and 0 elsewhere."""
    height, width = q.shape[-2:]
    keys = torch.eye(height * width, dtype=torch.float64).reshape(1, -1, height, width).expand(len(q), -1, -1, -1)
    return attention(q, k, keys, rel_height, rel_width)


class Pair(nn.Module):
    """Two augmented layers, one on a pooled map, of different maps and heads; a dict of two outputs."""

    def __init__(self):
        super().__init__()
        self.first = AugmentedConv2d(3, 12, dk=8, dv=4, num_heads=2, height=6, width=10, stride=2)
        self.second = AugmentedConv2d(
            12, 9, dk=9, dv=6, num_heads=3, height=3, width=5, attention_downsample=2, head_layout="unpermuted"
        )

    def forward(self, x):
        features = torch.relu(self.first(x))
        return {"features": features, "deep": self.second(features)}


@pytest.fixture
def pair():
    torch.manual_seed(0)
    return Pair().eval()


@pytest.fixture
def images():
    return torch.randn(2, 3, 6, 10, generator=torch.Generator().manual_seed(1))


@pytest.fixture(scope="module")
def converted_once(all_augmented_once):
    """Instead of the one that most tests share."""
    return all_augmented_once


@pytest.fixture(scope="module")
def observed_once(converted_once, tmp_path_factory):
    """The model of `converted_once`, converted with attention, and the result."""
    folder = tiny_folder(tmp_path_factory.mktemp("observed") / "tiny", all_augmented=True)
    folder.weights_path.write_bytes(open_folder(converted_once).weights_path.read_bytes())
    return folder, aaexport.convert(folder, with_attention=True)


@pytest.fixture
def picture_of_a_digit(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (20, 16), np.uint8)
    Image.fromarray(pixels).save(tmp_path / "digit.png")
    return tmp_path / "digit.png"


@every_decomposition
@every_split
@pytest.mark.parametrize("relative", [True, False], ids=["relative", "plain"])
def test_weights_are_the_softmax_of_the_definition(name, blocks, relative):
    q, k, v, *tables = maps_and_tables(relative)
    _, weights = with_weights(name, q, k, v, *tables, blocks)
    assert_close(weights, weights_by_definition(q, k, *tables), **EXACT)


@every_decomposition
@every_split
def test_every_row_of_weights_sums_to_one(name, blocks):
    _, weights = with_weights(name, *maps_and_tables(), blocks)
    assert_close(weights.sum(-1), torch.ones(3, 12, dtype=torch.float64), **EXACT)


@pytest.mark.parametrize("name", [name for name in DECOMPOSITIONS if name != "fused"])
@every_split
def test_giving_weights_away_changes_no_bit_of_the_output(name, blocks):
    inputs = maps_and_tables()
    out, _ = with_weights(name, *inputs, blocks)
    assert torch.equal(out, DECOMPOSITIONS[name](*inputs, blocks))


def test_fused_gives_the_weights_and_the_output_of_fold():
    inputs = maps_and_tables()
    for fused, fold in zip(with_weights("fused", *inputs), with_weights("fold", *inputs), strict=True):
        assert torch.equal(fused, fold)


@every_decomposition
def test_the_weights_of_a_network_are_those_of_the_definition(pair, images, name):
    set_decomposition(pair, name, 2)
    pair, images = pair.double(), images.double()
    layer = pair.first
    q, k, _ = layer.qkv(images).split([layer.dk, layer.dk, layer.dv], dim=1)
    q, k = (x.reshape(4, 4, 3, 5) for x in (q, k))
    wanted = weights_by_definition(q, k, layer.rel_height, layer.rel_width).reshape(2, 2, 3, 5, 3, 5)
    assert_close(attention_weights(pair, images)["first"], wanted, **EXACT)


def test_the_weights_of_a_network_are_maps_over_maps(pair, images):
    shapes = {path: tuple(weights.shape) for path, weights in attention_weights(pair, images).items()}
    assert shapes == {"first": (2, 2, 3, 5, 3, 5), "second": (2, 3, 2, 3, 2, 3)}


def test_a_layer_alone_has_the_empty_path(pair, images):
    assert list(attention_weights(pair.first, images)) == [""]


def test_outputs_are_named_after_layer_and_head(pair):
    assert attention_outputs(pair) == (
        *("attention.first.head0", "attention.first.head1"),
        *("attention.second.head0", "attention.second.head1", "attention.second.head2"),
    )
    assert attention_outputs(pair.first) == ("attention.head0", "attention.head1")


def test_the_wrapped_network_returns_its_own_outputs_to_the_bit(pair, images):
    with torch.no_grad():
        features, deep, *_ = WithAttention(pair)(images)
        wanted = pair(images)
    assert torch.equal(features, wanted["features"])
    assert torch.equal(deep, wanted["deep"])


def test_the_wrapped_network_returns_a_tensor_for_each_head(pair, images):
    with torch.no_grad():
        heads = WithAttention(pair)(images)[2:]
    eager = attention_weights(pair, images)
    wanted = [eager[path][:, head] for path in ("first", "second") for head in range(eager[path].shape[1])]
    for head, expected in zip(heads, wanted, strict=True):
        assert torch.equal(head, expected)


def test_a_network_tells_its_weights_only_while_it_is_asked(pair, images):
    attention_weights(pair, images)
    with pytest.raises(ArgumentError):
        attention_weights(pair, images[:, :, :2])
    assert pair.first.tell_weights is None


def test_a_network_without_attention_is_refused(images):
    with pytest.raises(ArgumentError, match="must have augmented layers, got a Conv2d without attention"):
        attention_weights(nn.Conv2d(3, 2, 1), images)


@pytest.mark.parametrize("times", [0, 2])
def test_a_layer_that_does_not_run_once_is_refused(images, times):
    class Repeating(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = AugmentedConv2d(3, 3, dk=2, dv=2, num_heads=1, height=6, width=10)

        def forward(self, x):
            for _ in range(times):
                x = self.layer(x)
            return x

    with pytest.raises(ArgumentError, match=f"layer 'layer' must run once for its attention to be told, got {times}"):
        attention_weights(Repeating(), images)


def session(path):
    return onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])


@pytest.mark.slow
def test_an_export_has_an_output_for_each_head_after_the_usual_ones(observed_once):
    folder, result = observed_once
    outputs = {value.name: value.shape for value in session(folder.onnx_path).get_outputs()}
    assert list(outputs) == ["logits", *HEADS]
    assert outputs["attention.features.0.head1"] == ["batch", 8, 8, 8, 8]
    assert outputs["attention.features.6.head0"] == ["batch", 4, 4, 4, 4]
    assert result.attention_outputs == HEADS


@pytest.mark.slow
def test_exported_weights_are_those_of_eager_pytorch(observed_once):
    folder, _ = observed_once
    batch = torch.randn(3, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    eager = attention_weights(build_model(folder), batch)
    found = session(folder.onnx_path).run(list(HEADS), {"input": batch.numpy()})
    for name, array in zip(HEADS, found, strict=True):
        layer, head = name.removeprefix("attention.").split(".head")
        assert_close(torch.from_numpy(array), eager[layer][:, int(head)], rtol=1e-5, atol=1e-6)


@pytest.mark.slow
def test_the_usual_outputs_are_those_of_the_plain_export_to_the_bit(observed_once, converted):
    folder, _ = observed_once
    batch = {"input": np.random.default_rng(0).standard_normal((3, 1, 8, 8), np.float32)}
    (plain,) = session(converted.onnx_path).run(["logits"], batch)
    (beside_attention,) = session(folder.onnx_path).run(["logits"], batch)
    assert np.array_equal(plain, beside_attention)


@pytest.mark.slow
def test_convert_verifies_the_weights_too(observed_once):
    _, result = observed_once
    assert result.parity.passed
    assert {output.output for output in result.parity.outputs} == {"logits", *HEADS}


@pytest.mark.slow
def test_verify_knows_a_file_with_attention_by_its_metadata(observed_once):
    folder, _ = observed_once
    entries = {entry.key: entry.value for entry in onnx.load(folder.onnx_path).metadata_props}
    assert entries["aaexport.with_attention"] == "true"
    report = aaexport.verify(folder)
    assert report.passed
    assert report.accuracy is not None


@pytest.mark.slow
def test_verify_fails_where_two_heads_are_mixed_up(observed_once, tmp_path):
    model = onnx.load(observed_once[0].onnx_path)
    swapped = {HEADS[0]: HEADS[1], HEADS[1]: HEADS[0]}
    for node in model.graph.node:
        node.output[:] = [swapped.get(name, name) for name in node.output]
    onnx.save(model, tmp_path / "swapped.onnx")
    report = aaexport.verify(observed_once[0], tmp_path / "swapped.onnx")
    assert {output.output for output in report.outputs if not output.passed} == set(HEADS[:2])


@pytest.mark.slow
def test_weights_of_blocks_are_exported_whole_where_fused_was_asked_for(pair, tmp_path):
    set_decomposition(pair, "auto", 4)
    options = {"opset": 23, "decomposition": "fused", "batch": 2, "with_attention": True}
    result = aaexport.convert(pair, tmp_path / "x.onnx", input_shape=(3, 6, 10), **options)
    assert result.decomposition == "fold/4"
    assert result.notes == ("attention by fold/4 instead of fused: the operator Attention outputs no weights",)
    assert result.parity.passed
    names = [value.name for value in session(result.path).get_outputs()]
    assert names == ["features", "deep", *attention_outputs(pair)]


@pytest.mark.parametrize("decomposition", ["auto", "fused"])
def test_fused_gives_way_where_its_weights_are_wanted_and_says_so(pair, decomposition):
    notes = plan_attention(pair, opset=23, batch="dynamic", decomposition=decomposition, with_attention=True)
    assert pair.first.decomposition == pair.second.decomposition == "fold"
    assert notes == ("attention by fold instead of fused: the operator Attention outputs no weights",)


def test_nothing_gives_way_below_the_opset_of_fused(pair):
    assert plan_attention(pair, opset=22, batch="dynamic", with_attention=True) == ()


def test_convert_refuses_attention_of_a_model_without(cli, tmp_path):
    outcome = cli("convert", "conv_cnn3_digits", "--with-attention")
    assert outcome.code == 2
    assert outcome.err.endswith("Error: the model must have augmented layers, got a ThreeConvNet without attention\n")
    assert not (tmp_path / "conv_cnn3_digits/model.onnx").exists()


@pytest.mark.slow
def test_convert_refuses_a_limit_that_whole_weights_would_break(cli, converted):
    outcome = cli("convert", converted.path, "--with-attention", "--max-attention-memory", "1")
    assert outcome.code == 2
    assert "--max-attention-memory must be left out with --with-attention, got 1.0" in outcome.err


@pytest.mark.slow
def test_a_file_with_attention_can_be_measured(observed_once):
    report = aaexport.serve_bench(observed_once[0], duration=0.02, warmup=0, batches=(2,), threads=1)
    assert [(rival.name, rival.same_answers) for rival in report.comparisons] == [("eager", True)]
    assert (report.check.checked > 0, report.check.wrong) == (True, 0)


@pytest.mark.slow
def test_pytorch_answers_with_its_weights_where_the_file_does(observed_once, tmp_path):
    np.save(tmp_path / "samples.npy", np.zeros((1, 1, 8, 8), np.float32))
    samples, folder = str(tmp_path / "samples.npy"), str(observed_once[0].path)
    (runner,) = load(WorkerSpec("torch", folder, samples, "cpu", None, with_attention=True), None).runners
    assert tuple(runner.infer({"input": np.zeros((1, 1, 8, 8), np.float32)})) == ("logits", *HEADS)


@pytest.mark.slow
def test_reports_take_the_heads_of_a_layer_together(cli, observed_once):
    assert listed(["logits", *HEADS[:3]]) == "attention.features.0.head0–1, attention.features.3.head0"
    outcome = cli("inspect", observed_once[0].path)
    assert "attention.features.6.head0–1" in outcome.out


def test_an_image_file_is_seen_as_the_images_of_a_data_set_are(converted, picture_of_a_digit):
    pixels, batch = read_image(picture_of_a_digit, converted.recipe)
    alike = DecodedImages(ImagePaths([picture_of_a_digit]), torch.tensor([0]), 1)
    assert torch.equal(batch, evaluation_batch(alike, converted.recipe))
    assert (pixels.shape, pixels.dtype) == ((1, 8, 8), torch.uint8)


def test_the_last_layer_is_drawn_for_five_queries_and_all_heads(converted, picture_of_a_digit, tmp_path):
    picture = aaexport.draw_attention(converted, picture_of_a_digit, tmp_path / "heads.png")
    (layer,) = picture.layers
    assert (layer.layer, layer.heads) == ("features.6", (0, 1))
    assert layer.pixels == ((2, 2), (2, 6), (4, 4), (6, 2), (6, 6))
    assert layer.positions == ((1, 1), (1, 3), (2, 2), (3, 1), (3, 3))
    with Image.open(tmp_path / "heads.png") as image:
        assert image.format == "PNG"


def test_the_ending_of_the_name_decides_the_format_and_both_say_the_same(converted, picture_of_a_digit, tmp_path):
    drawn = [aaexport.draw_attention(converted, picture_of_a_digit, tmp_path / name) for name in ("a.PNG", "a.svg")]
    assert (tmp_path / "a.PNG").read_bytes().startswith(b"\x89PNG")
    svg = ElementTree.parse(tmp_path / "a.svg").getroot()
    with Image.open(tmp_path / "a.PNG") as image:
        assert image.size == (int(svg.get("width")), int(svg.get("height")))
    for png, vector in zip(*(picture.layers for picture in drawn), strict=True):
        np.testing.assert_array_equal(png.weights, vector.weights)


def test_the_picture_names_image_model_and_predicted_class(converted, picture_of_a_digit, tmp_path):
    picture = aaexport.draw_attention(converted, picture_of_a_digit, tmp_path / "a.svg")
    _, batch = read_image(picture_of_a_digit, converted.recipe)
    with torch.no_grad():
        shares = build_model(converted)(batch)[0].softmax(0)
    assert picture.predicted.number == shares.argmax()
    assert picture.predicted.name == converted.recipe.input.names[picture.predicted.number]
    assert picture.predicted.probability == pytest.approx(float(shares.max()))
    said = f"predicted: {picture.predicted.name} ({picture.predicted.probability:.1%})"
    words = ElementTree.parse(tmp_path / "a.svg").getroot()[0].text
    assert words == f"digit.png as tiny attends to it; {said}"
    assert f"predicted         {said.removeprefix('predicted: ')}" in str(picture)
    assert picture.to_dict()["predicted"]["probability"] == picture.predicted.probability


def test_an_svg_needs_pillow_for_the_image_alone(converted, picture_of_a_digit, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "PIL.Image", None)
    with pytest.raises(DataError, match=r"a \.png picture needs Pillow"):
        aaexport.draw_attention(converted, picture_of_a_digit, tmp_path / "a.png")
    with pytest.raises(DataError, match="an image file needs Pillow"):
        aaexport.draw_attention(converted, picture_of_a_digit, tmp_path / "a.svg")


def test_what_is_drawn_is_the_row_of_the_query(converted, picture_of_a_digit, tmp_path):
    chosen = {"layers": ["features.3"], "queries": [(7, 2)], "heads": [1]}
    picture = aaexport.draw_attention(converted, picture_of_a_digit, tmp_path / "heads.png", **chosen)
    _, batch = read_image(picture_of_a_digit, converted.recipe)
    module = build_model(converted)
    wanted = attention_weights(module, batch)["features.3"][0, 1, 3, 1].numpy()
    np.testing.assert_array_equal(picture.layers[0].weights[0, 0], wanted)


def test_the_largest_weight_is_the_brightest_place_and_the_query_is_framed(converted, picture_of_a_digit, tmp_path):
    Image.new("L", (8, 8), 0).save(picture_of_a_digit)
    chosen = {"layers": ["features.0"], "queries": [(0, 0)], "heads": [0]}
    picture = aaexport.draw_attention(converted, picture_of_a_digit, tmp_path / "heads.png", **chosen)
    pixels = np.asarray(Image.open(tmp_path / "heads.png").convert("L"), np.float64)
    cell = pixels[104:296, 216:408].reshape(8, 24, 8, 24)[:, 12, :, 12]  # the middle of each position of the map
    weights = picture.layers[0].weights[0, 0]
    assert cell.argmax() == weights.argmax()
    assert cell.argmin() == weights.argmin()
    assert Image.open(tmp_path / "heads.png").getpixel((216, 104)) == (255, 45, 85)


def test_the_command_draws_what_it_is_told(cli, converted, picture_of_a_digit):
    options = ("--layer", "features.0", "--layer", "features.3", "--query", "0,7", "--head", "1")
    outcome = cli("inspect", converted.path, "--attention", picture_of_a_digit, *options, "--out", "x.png", "--json")
    value = json.loads(outcome.out)
    assert (outcome.code, value["schema"], value["path"]) == (0, "aaexport.attention/1", "x.png")
    assert [layer["layer"] for layer in value["layers"]] == ["features.0", "features.3"]
    assert value["layers"][1]["positions"] == [[0, 3]]
    assert sum(map(sum, value["layers"][0]["weights"][0][0])) == pytest.approx(1)


def test_the_command_says_what_it_drew(cli, converted, picture_of_a_digit):
    outcome = cli("inspect", converted.path, "--attention", picture_of_a_digit, "--out", "x.png")
    assert "map 4×4, heads 0, 1, queries 2,2 2,6 4,4 6,2 6,6" in outcome.out
    assert "the weights are random ones, never trained" in outcome.out


@pytest.mark.parametrize(
    ("options", "code", "words"),
    [
        (("--layer", "features.1"), 2, "--layer must be an augmented one, got 'features.1'; did you mean 'features."),
        (("--query", "8,0"), 2, "--query must be ROW,COLUMN from 0,0 to 7,7 in the network's input, got '8,0'"),
        (("--query", "-1,0"), 2, "from 0,0 to 7,7 in the network's input, got '-1,0'"),
        (("--query", "3"), 2, "--query must be ROW,COLUMN in whole pixels, got '3'"),
        (("--query", "a,b"), 2, "--query must be ROW,COLUMN in whole pixels, got 'a,b'"),
        (("--head", "2"), 2, "--head must be from 0 to 1 in features.6, got 2"),
        (("--head", "-1"), 2, "--head must be from 0 to 1 in features.6, got -1"),
        (("--out", "x.jpg"), 2, "--out must name a .png or .svg file, got 'x.jpg'"),
        (("--out", "nowhere/x.png"), 1, "nowhere must be a folder, got none; create it first"),
        (("--out", "digit.png"), 2, "--out must be another file than the image, got 'digit.png'"),
        (("--attention", "notes.png"), 1, "notes.png must be a readable image, but: Pillow knows no such format"),
        (("--attention", "none.png"), 1, "none.png must be a readable image, but: "),
        (("--attention", "."), 1, ". must be a readable image, but: "),
    ],
)
def test_a_wrong_choice_is_one_line_and_no_file(cli, converted, picture_of_a_digit, tmp_path, options, code, words):
    (tmp_path / "notes.png").write_text("no image")
    before = picture_of_a_digit.read_bytes()
    outcome = cli("inspect", converted.path, "--attention", "digit.png", "--out", "x.png", *options)
    assert (outcome.code, outcome.out) == (code, "")
    assert outcome.err.startswith("Error: ")
    assert outcome.err.count("\n") == 1
    assert words in outcome.err
    assert picture_of_a_digit.read_bytes() == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["digit.png", "notes.png", "tiny"]


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (("tiny/model.onnx",), 2, "model must be a model folder or a zoo name where attention is drawn"),
        (("conv_cnn3_digits",), 2, "the model must have augmented layers, got a ThreeConvNet without attention"),
        (("aa_resnet34",), 1, "has no weights.safetensors yet"),
        (("aa_cnn3_digitz",), 1, "did you mean 'aa_cnn3_digits'?"),
    ],
)
def test_a_model_that_has_nothing_to_draw(cli, converted, picture_of_a_digit, arguments, code, words):
    outcome = cli("inspect", *arguments, "--attention", picture_of_a_digit, "--out", "x.png")
    assert outcome.code == code
    assert words in outcome.err


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--attention", "digit.png"), "--attention needs --out FILE.png or FILE.svg"),
        (("--query", "1,1"), "--query needs --attention IMAGE"),
        (("--head", "0"), "--head needs --attention IMAGE"),
        (("--layer", "features.0"), "--layer needs --attention IMAGE"),
        (("--out", "x.png"), "--out needs --attention IMAGE"),
    ],
)
def test_options_that_need_each_other(cli, converted, options, words):
    outcome = cli("inspect", converted.path, *options)
    assert outcome.code == 2
    assert words in outcome.err


def test_a_missing_pillow_is_told_with_its_remedy(cli, converted, picture_of_a_digit, monkeypatch):
    monkeypatch.setitem(sys.modules, "PIL.Image", None)
    outcome = cli("inspect", converted.path, "--attention", picture_of_a_digit, "--out", "x.png")
    assert outcome.code == 1
    assert outcome.err == "Error: a .png picture needs Pillow; pip install 'aaexport[datasets]'\n"


def test_broken_weights_draw_nothing(cli, converted, picture_of_a_digit, tmp_path):
    module = build_model(converted)
    nn.init.constant_(module.features[0].qkv.weight, float("nan"))
    save_weights(module, converted.weights_path)
    outcome = cli("inspect", converted.path, "--attention", picture_of_a_digit, "--out", "x.png")
    assert outcome.code == 1
    assert "layer features.6 attends with NaN or infinity" in outcome.err
    assert not (tmp_path / "x.png").exists()


# A held-out image


def test_a_sample_is_what_the_verification_would_show_the_network():
    from aaexport.data import load_images, read_sample

    recipe = find_model("aa_cnn3_digits").recipe
    images = load_images(recipe, "test")
    pixels, batch = read_sample(7, recipe)
    assert torch.equal(batch, evaluation_batch(images, recipe, torch.tensor([7])))
    assert_close(pixels[0].float() * images.white / 255, images.pixels[7, 0].float(), rtol=0, atol=0.04)
    assert (pixels.dtype, pixels.shape) == (torch.uint8, (1, 8, 8))


def test_a_sample_is_drawn_without_a_file(cli, converted, tmp_path):
    outcome = cli("inspect", converted.path, "--attention", "sample:7", "--out", "seven.png", "--json")
    assert outcome.code == 0, outcome.err
    assert json.loads(outcome.out)["image"] == "sample:7"
    with Image.open(tmp_path / "seven.png") as picture:
        assert picture.format == "PNG"


@pytest.mark.parametrize(
    ("image", "words"),
    [
        ("sample:100000", "--attention must be from sample:0 to sample:"),
        ("sample:-1", "--attention must be a file, or sample:N with a whole number, got 'sample:-1'"),
        ("sample:seven", "--attention must be a file, or sample:N with a whole number, got 'sample:seven'"),
        ("sample:", "--attention must be a file, or sample:N with a whole number, got 'sample:'"),
    ],
)
def test_a_sample_that_there_is_not_is_refused(cli, converted, tmp_path, image, words):
    assert words in error_of(cli("inspect", converted.path, "--attention", image, "--out", "x.png"), 2)
    assert not (tmp_path / "x.png").exists()


def test_a_sample_of_a_data_set_that_is_not_there_says_so(cli, converted, monkeypatch):
    def missing(request):
        raise DataError("digits needs scikit-learn; pip install 'aaexport[digits]'")

    monkeypatch.setitem(SOURCES, "digits", dataclasses.replace(SOURCES["digits"], read=missing))
    error = error_of(cli("inspect", converted.path, "--attention", "sample:0", "--out", "x.png"), 1)
    assert "pip install" in error


def test_a_file_of_such_a_name_is_given_with_its_folder(cli, converted, tmp_path):
    Image.fromarray(np.zeros((8, 8), np.uint8)).save(tmp_path / "sample:7", format="PNG")
    assert cli("inspect", converted.path, "--attention", "./sample:7", "--out", "x.png").code == 0
