"""Small model folders, changes to their recipes, and what lies in them."""

import hashlib

from aaexport.folder import checkout

TINY = (("channels = [64, 128, 192]", "channels = [8, 8, 8]"), ("num_heads = 4", "num_heads = 2"))
# The exporter takes as long for an augmented layer as for ten others, so tests have the one that they need.
ONE_AUGMENTED = ("relative = true", "relative = true\nstages = [2]")


def tiny_folder(path, *, all_augmented=False):
    """aa_cnn3_digits with 8 channels a layer, without weights; only its second layer augmented, or all three."""
    folder = checkout("aa_cnn3_digits", path)
    for trained in (folder.weights_path, folder.golden_path, folder.training_log_path):
        trained.unlink()
    text = folder.recipe_path.read_text()
    for old, new in TINY if all_augmented else (*TINY, ONE_AUGMENTED):
        assert old in text
        text = text.replace(old, new)
    folder.recipe_path.write_text(text)
    return folder


def edited(folder, old, new):
    text = folder.recipe_path.read_text()
    assert old in text
    folder.recipe_path.write_text(text.replace(old, new))


def files_of(folder):
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(folder.path.iterdir())}
