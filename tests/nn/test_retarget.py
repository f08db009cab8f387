"""Relative tables for another image size: central rows, which are exact, or interpolated ones."""

import pytest
import torch
from safetensors.torch import save_file
from torch.testing import assert_close

from aaexport.errors import WeightsError
from aaexport.nn import AugmentedConv2d
from aaexport.nn.retarget import resized_table, retargeted
from aaexport.weights.recorded import RANDOM_NOTE
from aaexport.weights.safetensors import load_weights, save_weights


def layer(height, width, **options):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(height * 100 + width)
        options = {"dk": 8, "dv": 4, "num_heads": 2} | options
        return AugmentedConv2d(3, 8, 3, height=height, width=width, **options).eval()


def table(length, depth=3):
    return torch.randn(2 * length - 1, depth, generator=torch.Generator().manual_seed(length))


@pytest.mark.parametrize(("large", "small"), [(8, 8), (8, 5), (7, 1), (2, 1)])
def test_a_smaller_map_keeps_the_embedding_of_every_offset(large, small):
    before = table(large)
    after = resized_table(before, 2 * small - 1)
    for offset in range(1 - small, small):
        assert torch.equal(after[offset + small - 1], before[offset + large - 1])


@pytest.mark.parametrize(("small", "large"), [(2, 3), (5, 8), (8, 64)])
def test_a_larger_map_keeps_the_centre_and_the_outermost_rows(small, large):
    before, after = table(small), resized_table(table(small), 2 * large - 1)
    for old, new in ((0, 0), (small - 1, large - 1), (-1, -1)):
        assert_close(after[new], before[old])


def test_a_larger_map_is_interpolated_linearly_over_the_offsets():
    line = torch.arange(-3.0, 4.0).unsqueeze(1) * torch.tensor([[1.0, -2.0]])
    stretched = resized_table(line, 13)
    assert_close(stretched, torch.linspace(-3, 3, 13).unsqueeze(1) * torch.tensor([[1.0, -2.0]]))


def test_the_only_offset_of_one_position_serves_every_offset():
    assert torch.equal(resized_table(table(1), 5), table(1).repeat(5, 1))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_a_table_keeps_its_type(dtype):
    assert resized_table(table(3).to(dtype), 9).dtype == dtype
    assert resized_table(table(3).to(dtype), 3).dtype == dtype


# Loading


def loaded(source, target, tmp_path):
    save_weights(source, tmp_path / "weights.safetensors")
    return load_weights(target, tmp_path / "weights.safetensors")


def test_weights_of_the_same_size_are_loaded_without_a_word(tmp_path):
    assert loaded(layer(5, 4), layer(5, 4), tmp_path) == ()


def test_a_cut_table_is_told_as_exact(tmp_path):
    assert loaded(layer(5, 4), layer(3, 2), tmp_path) == (
        "2 relative tables cut to their central rows for a smaller map, which is exact",
    )


def test_a_stretched_table_is_told(tmp_path):
    (note,) = loaded(layer(3, 2), layer(5, 2), tmp_path)
    assert note.startswith("1 relative table interpolated for a larger map than it was trained for")


def test_each_axis_goes_its_own_way(tmp_path):
    target = layer(3, 8)
    assert len(loaded(layer(5, 4), target, tmp_path)) == 2
    assert torch.equal(target.rel_height, layer(5, 4).rel_height[2:7])
    assert torch.equal(target.rel_width[7], layer(5, 4).rel_width[3])


def test_a_table_of_another_depth_is_refused(tmp_path):
    with pytest.raises(WeightsError, match=r"tensor 'qkv.weight' must have the shape|tensor 'rel_height' must have"):
        loaded(layer(5, 4, dk=4), layer(3, 4), tmp_path)


def test_a_table_of_an_even_number_of_rows_is_refused(tmp_path):
    tensors = dict(layer(5, 4).state_dict()) | {"rel_height": torch.zeros(8, 4)}
    save_file(tensors, tmp_path / "weights.safetensors")
    with pytest.raises(WeightsError, match="tensor 'rel_height' must have the shape"):
        load_weights(layer(5, 4), tmp_path / "weights.safetensors")


def test_tensors_that_are_no_tables_are_passed_on():
    found = {"conv.weight": torch.zeros(3, 2), "a.rel_height": torch.zeros(5, 2)}
    fitted, notes = retargeted(found, {"conv.weight": torch.zeros(5, 2), "a.rel_height": torch.zeros(3, 2)})
    assert fitted["conv.weight"].shape == (3, 2)
    assert fitted["a.rel_height"].shape == (3, 2)
    assert len(notes) == 1


def test_random_weights_say_so_whenever_they_are_loaded(tmp_path):
    save_weights(layer(3, 3), tmp_path / "weights.safetensors", random=True)
    assert load_weights(layer(3, 3), tmp_path / "weights.safetensors") == (RANDOM_NOTE,)
