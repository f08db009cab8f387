"""Attention as a picture: raw maps of one scale beside the image, the same in SVG and PNG."""

import base64
import io
import re
from xml.etree import ElementTree

import numpy as np
import pytest
from PIL import Image

from aaexport.report.attention_picture import (
    GAP,
    LONG_SIDE,
    LONGEST_SIDE,
    VIRIDIS,
    attention_picture,
    attention_scene,
    coloured,
    scaled,
    size_of,
)
from aaexport.report.scene import Cell, Frame, Words, as_png, as_svg, png_of
from aaexport.results import LayerAttention, Prediction

NAMESPACE = "{http://www.w3.org/2000/svg}"
SEVEN = Prediction(7, "seven", 0.9876)
HOSTILE = '<script>&\x1b[31m"é×'


def layer(weights, name="features.6"):
    """Of weights, (queries, heads, H, W); the queries are the first positions."""
    weights = np.asarray(weights, np.float32)
    queries = tuple((0, place) for place in range(len(weights)))
    return LayerAttention(name, tuple(range(weights.shape[1])), queries, queries, weights)


def peaked(share, size=4):
    """A map whose first position takes that share, the others the rest alike."""
    weights = np.full((size, size), (1 - share) / (size * size - 1))
    weights[0, 0] = share
    return weights


IMAGE = np.arange(64, dtype=np.uint8).reshape(8, 8, 1)
TWO = layer([[peaked(0.5), peaked(1 / 16)], [peaked(0.25), peaked(0.125)]])


def scene(*layers, image=IMAGE, predicted=SEVEN):
    return attention_scene(image, layers or (TWO,), title="7.png as aa attends to it", predicted=predicted)


def parts(found, kind):
    return [part for part in found.parts if isinstance(part, kind)]


def words(found):
    return [part.text for part in parts(found, Words)]


def test_it_says_what_it_is_of_and_what_was_predicted():
    assert words(scene())[:2] == ["7.png as aa attends to it", "predicted: seven (98.8%)"]
    assert scene().title == "7.png as aa attends to it; predicted: seven (98.8%)"
    assert words(scene(predicted=None))[1].startswith("layer features.6, map 4 × 4")


def test_the_image_stands_as_it_is_beside_each_row_of_maps():
    cells = parts(scene(), Cell)
    whole = np.repeat(np.repeat(np.broadcast_to(IMAGE, (8, 8, 3)), 24, 0), 24, 1)
    images = [cell for cell in cells if cell.x == GAP]
    assert len(images) == 2
    for cell in images:
        np.testing.assert_array_equal(cell.pixels, whole)
        assert sum(other.y == cell.y and other.x > GAP for other in cells) >= 2


def test_all_heads_and_queries_of_a_layer_have_one_scale():
    first, second, third, fourth = (cell.pixels[0, 0] for cell in parts(scene(), Cell) if cell.pixels.shape[1] > 16
                                    and cell.x > GAP)  # fmt: skip
    np.testing.assert_array_equal(first, VIRIDIS[-1])
    for found, share in ((second, 1 / 8), (third, 1 / 2), (fourth, 1 / 4)):
        np.testing.assert_array_equal(found, coloured(np.full((1, 1), share))[0, 0])


def test_weights_are_told_in_multiples_of_uniform():
    said = words(scene())
    assert [text for text in said if text.startswith("head")] == [
        "head 0, at most 8 ×", "head 1, at most 1 ×", "head 0, at most 4 ×", "head 1, at most 2 ×",
    ]  # fmt: skip
    assert said[-4:] == ["× uniform", "8 ×", "0", "1 (uniform)"]


def test_uniform_attention_is_marked_where_it_is_on_the_scale():
    top, bottom, uniform = (part for part in parts(scene(), Words)[-3:])
    assert (bottom.y - uniform.y) / (bottom.y - top.y) == pytest.approx(1 / 8, abs=0.01)


def test_numbers_of_the_scale_do_not_cover_each_other():
    flat = words(scene(layer([[np.full((4, 4), 1 / 16)]])))
    assert flat[-2:] == ["1 ×", "0"]
    steep = words(scene(layer([[peaked(1.0, 32)]])))
    assert steep[-2:] == ["1,024 ×", "0"]


def test_every_layer_has_its_own_scale():
    said = words(scene(TWO, layer([[peaked(0.125, 8)]], "features.0")))
    assert [said[place + 1] for place, text in enumerate(said) if text == "× uniform"] == ["8 ×", "8 ×"]
    assert sum(text == "× uniform" for text in said) == 2


def test_the_query_is_framed_on_the_image_and_on_every_map():
    frames = parts(scene(), Frame)
    assert len(frames) == 6
    cells = [cell for cell in parts(scene(), Cell) if cell.pixels.shape[1] > 16]
    for frame, cell in zip(frames, cells, strict=True):
        query = 0 if cell.y == cells[0].y else 1
        assert (frame.x - cell.x, frame.y - cell.y, frame.width, frame.height) == (48 * query, 0, 48, 48)


@pytest.mark.parametrize(("width", "count"), [(192, 7), (192, 5), (224, 11), (320, 14)])
def test_a_frame_encloses_exactly_the_field_of_its_position(width, count):
    for position in range(count):
        marked = np.zeros((count, count, 3), np.uint8)
        marked[position, position] = 255
        field = np.argwhere(scaled(marked, (width, width))[:, :, 0])
        weights = np.full((1, 1, count, count), 1 / count**2, np.float32)
        one = LayerAttention("x", (0,), ((0, 0),), ((position, position),), weights)
        drawn = attention_scene(np.zeros((width, width, 1), np.uint8), (one,), title="", predicted=None)
        frame, cell = parts(drawn, Frame)[0], parts(drawn, Cell)[0]
        assert (frame.y - cell.y, frame.x - cell.x) == tuple(field.min(0))
        assert (frame.height, frame.width) == tuple(field.max(0) - field.min(0) + 1)


def test_nothing_leaves_the_sheet_and_nothing_covers_another():
    found = scene(TWO, layer([[peaked(0.5, 8)] * 8]), image=np.zeros((300, 150, 3), np.uint8))
    boxes = [(cell.x, cell.y, cell.x + cell.pixels.shape[1], cell.y + cell.pixels.shape[0])
             for cell in parts(found, Cell)]  # fmt: skip
    boxes += [(text.x, text.y - 7, text.x + text.width, text.y + 7) for text in parts(found, Words)]
    assert min(min(box[:2]) for box in boxes) >= 0
    assert max(box[2] for box in boxes) <= found.width
    assert max(box[3] for box in boxes) <= found.height
    for place, (left, top, right, bottom) in enumerate(boxes):
        for other in boxes[:place]:
            assert other[2] <= left or right <= other[0] or other[3] <= top or bottom <= other[1], (
                boxes[place],
                other,
            )


@pytest.mark.parametrize(
    ("size", "wanted"),
    [((8, 8), (192, 192)), ((224, 224), (224, 224)), ((600, 300), (320, 160)), ((1, 100), (2, 192)),
     ((3000, 1), (320, 1))],
)  # fmt: skip
def test_an_image_is_drawn_in_a_size_that_can_be_seen_and_kept(size, wanted):
    assert size_of(np.zeros((*size, 1), np.uint8)) == wanted
    assert LONG_SIDE <= max(wanted) <= LONGEST_SIDE


def test_a_smaller_size_is_the_mean_of_what_it_stands_for():
    pixels = np.random.default_rng(0).integers(0, 256, (640, 320, 3)).astype(np.uint8)
    means = pixels.reshape(320, 2, 160, 2, 3).astype(np.float64).mean((1, 3))
    assert np.abs(scaled(pixels, (320, 160)) - means).max() <= 1


# Colours


def lightness(colour):
    """L* of CIELAB, D65, of an sRGB colour."""
    channels = [value / 255 for value in colour]
    linear = [v / 12.92 if v <= 0.04045 else ((v + 0.055) / 1.055) ** 2.4 for v in channels]
    luminance = 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]
    return 116 * np.cbrt(luminance) - 16


def test_equal_steps_look_alike():
    steps = np.diff([lightness(colour) for colour in coloured(np.linspace(0, 1, 52)[None])[0].astype(float)])
    assert steps.min() > 0
    assert steps.max() / np.median(steps) < 1.35


# Formats


def images_of(svg):
    for image in svg.iter(f"{NAMESPACE}image"):
        data = base64.b64decode(image.get("href").removeprefix("data:image/png;base64,"))
        yield image, np.asarray(Image.open(io.BytesIO(data)))


def test_an_svg_is_well_formed_holds_its_pixels_and_needs_nothing_else():
    found = scene()
    svg = ElementTree.fromstring(as_svg(found))
    assert [text.text for text in svg.iter(f"{NAMESPACE}text")] == words(found)
    for cell, (image, pixels) in zip(parts(found, Cell), images_of(svg), strict=True):
        assert (int(image.get("x")), int(image.get("y"))) == (cell.x, cell.y)
        np.testing.assert_array_equal(pixels, cell.pixels)
    assert set(re.findall(r'(?:href|src)="([^,"]*),', as_svg(found))) == {"data:image/png;base64"}


def test_a_png_has_the_same_pixels_outside_of_frames_and_words():
    found = scene()
    sheet = np.asarray(Image.open(io.BytesIO(as_png(found))))
    assert sheet.shape == (found.height, found.width, 3)
    for cell in parts(found, Cell):
        height, width = cell.pixels.shape[:2]
        drawn = sheet[cell.y : cell.y + height, cell.x : cell.x + width]
        framed = (drawn == (255, 45, 85)).all(-1)
        np.testing.assert_array_equal(drawn[~framed], cell.pixels[~framed])
        assert framed.mean() < 0.05


@pytest.mark.parametrize("form", ["svg", "png"])
def test_names_of_anybody_can_be_drawn(form):
    predicted = Prediction(1, HOSTILE, 1.0)
    drawn = attention_picture(IMAGE, [layer([[peaked(0.5)]], HOSTILE)], title=HOSTILE, predicted=predicted, form=form)
    if form == "svg":
        svg = ElementTree.fromstring(drawn.decode())
        assert not list(svg.iter(f"{NAMESPACE}script"))
        assert svg[0].text.startswith("<script>&[31m")
    else:
        assert Image.open(io.BytesIO(drawn)).format == "PNG"


@pytest.mark.parametrize("shape", [(1, 1), (3, 5), (200, 7)])
def test_the_small_png_is_what_pillow_reads(shape):
    pixels = np.random.default_rng(0).integers(0, 256, (*shape, 3)).astype(np.uint8)
    np.testing.assert_array_equal(np.asarray(Image.open(io.BytesIO(png_of(pixels)))), pixels)
