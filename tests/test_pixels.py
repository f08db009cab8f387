"""What is served sees an image as training and verification did, to the last bit."""

import io

import numpy as np
import pytest
import torch

from aaexport.data import DecodedImages, evaluation_batch
from aaexport.data.image_folder import ImagePaths
from aaexport.data.views import resized
from aaexport.folder import find_model
from aaexport.pixels import decoded_pixels, network_input, resized_pixels

PIL_IMAGE = pytest.importorskip("PIL.Image", reason="Pillow is not installed")
SIZES = [(9, 13, 8, 8), (8, 8, 8, 8), (5, 7, 32, 20), (300, 201, 64, 64), (64, 9, 64, 17), (31, 40, 200, 40)]


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("size", SIZES, ids=str)
def test_an_image_is_resized_to_the_last_bit_as_torch_does(rng, size, channels):
    """In the order of axes that a decoded image has, in which torch takes another way than for planes."""
    height, width, *wanted = size
    pixels = rng.integers(0, 256, (height, width, channels), np.uint8).transpose(2, 0, 1)
    expected = resized(torch.from_numpy(pixels)[None], tuple(wanted))[0].numpy()
    np.testing.assert_array_equal(resized_pixels(pixels, tuple(wanted)), expected)


@pytest.mark.parametrize("model", ["aa_cnn3_digits", "aa_resnet50"])
@pytest.mark.parametrize("kind", ["PNG", "JPEG"])
def test_bytes_become_what_evaluation_feeds(rng, tmp_path, model, kind):
    recipe = find_model(model).recipe
    path = tmp_path / "photo"
    PIL_IMAGE.fromarray(rng.integers(0, 256, (61, 83, 3), np.uint8)).save(path, kind)
    image = recipe.input
    served = network_input(path.read_bytes(), image.shape, image.mean, image.std, recipe.data.crop_share, 10_000)
    images = DecodedImages(ImagePaths([path]), torch.zeros(1, dtype=torch.int64), image.channels)
    expected = evaluation_batch(images, recipe).numpy()
    assert served.dtype == expected.dtype
    np.testing.assert_array_equal(served, expected)


def test_an_image_of_too_many_pixels_is_refused_by_its_head():
    stream = io.BytesIO()
    PIL_IMAGE.new("L", (300, 400)).save(stream, "PNG")
    head = stream.getvalue()[:60]  # what follows would be missed if it were read
    with pytest.raises(ValueError, match="it has 300 × 400 pixels, more than 100000"):
        decoded_pixels(head, 1, most=100_000)


@pytest.mark.parametrize("kind", ["EPS", "GIF", "TIFF"])
def test_a_stranger_s_bytes_are_jpeg_or_png_alone(monkeypatch, kind):
    """Of EPS Pillow would start Ghostscript."""
    stream = io.BytesIO()
    PIL_IMAGE.new("RGB", (8, 8)).save(stream, kind)
    monkeypatch.setattr(
        "PIL.EpsImagePlugin.Ghostscript", lambda *_, **__: pytest.fail("Ghostscript would be started")
    )
    with pytest.raises(OSError, match="cannot identify image"):
        network_input(stream.getvalue(), (1, 8, 8), (0.0,), (1.0,), 1.0, 10_000)
