"""How much shared memory a service needs, and what a container is given."""

from dataclasses import replace

import pytest
from served import facts

from aaexport.serving.engine import SHARED_MEMORY
from aaexport.serving.facts import ServedTensor
from aaexport.serving.repository import MOST_IMAGE_BYTES, RepositorySettings
from aaexport.serving.served import Served
from aaexport.serving.shared_memory import COPIES, GIVEN, image_bytes, mebibytes, needed_bytes

ONE = 4 * (64 + 3)  # bytes of an image of 8 × 8 and of three scores


def test_each_instance_has_its_own_region_and_a_batch_in_copies():
    assert needed_bytes(facts(), 32, 3, images=False) == 3 * (SHARED_MEMORY + COPIES * 32 * ONE)


def test_images_come_in_as_whole_files():
    both = needed_bytes(facts(), 1, 1, images=True) - needed_bytes(facts(), 1, 1, images=False)
    assert both == image_bytes(facts()) == SHARED_MEMORY + MOST_IMAGE_BYTES + COPIES * ONE


def test_a_fixed_batch_is_its_own_and_numbers_have_their_own_bytes():
    fixed = replace(facts(batch=4, golden=()), outputs=(ServedTensor("logits", "FP64", (4, 3)),))
    assert needed_bytes(fixed, 32, 1, images=False) == SHARED_MEMORY + COPIES * 4 * (64 * 4 + 3 * 8)


def test_a_size_that_is_open_is_that_of_the_golden_vectors():
    open_size = replace(facts(), inputs=(ServedTensor("input", "FP32", (-1, 1, -1, -1)),))
    assert needed_bytes(open_size, 32, 1, images=False) == needed_bytes(facts(), 32, 1, images=False)
    assert needed_bytes(replace(open_size, golden=()), 1, 1, images=False) == SHARED_MEMORY + COPIES * 4 * (1 + 3)


@pytest.mark.parametrize(("needed", "told"), [(1, GIVEN), (2**26, 64), (2**26 + 1, 96), (10 * 2**30, 10240)])
def test_a_container_is_given_whole_steps(needed, told):
    assert mebibytes(needed) == told


def test_the_service_asks_for_as_much_as_is_written_for_a_container():
    settings = RepositorySettings(max_batch=7, instances=2)
    asked = Served(facts(), 1, settings)
    assert asked.shared_bytes == needed_bytes(facts(), 7, 2, images=True)
    tensors = Served(facts(), 1, replace(settings, images=False))
    assert tensors.shared_bytes == needed_bytes(facts(), 7, 2, images=False)


def test_a_server_that_computes_in_its_own_process_needs_none_but_for_images():
    own = RepositorySettings(backend="onnxruntime", max_batch=1000, instances=4)
    assert Served(facts(), 1, own).shared_bytes == image_bytes(facts())
    assert Served(facts(), 1, replace(own, images=False)).shared_bytes == 0
