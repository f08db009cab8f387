"""What is measured on a GPU: the files, how each is run, and the ratios that the table makes of it."""

from dataclasses import dataclass
from itertools import product

# The sides of a comparison: the public implementations' way, ours at an opset (from 23 on with attention in one
# operator, whose heads are padded for the fused kernels), ours without that padding, and plain convolutions.
NAIVE, OURS, UNPADDED, PLAIN = "naive", "ours", "unpadded", "plain"
DTYPES = ("float32", "float16")


@dataclass(frozen=True)
class File:
    """A layer (its subject is a size) or a network, written by one side at one opset; the batch is open."""

    subject: str
    side: str
    opset: int
    dtype: str = "float32"

    @property
    def name(self):
        return f"{self.subject}_{self.side}_{self.opset}_{self.dtype}"


@dataclass(frozen=True)
class Plan:
    """Which layers (by their sizes), networks (each with its twin of plain convolutions), sides and batches."""

    layers: dict  # subject → (side of the map, batch)
    networks: dict  # subject → (model, twin, batches)
    training: tuple  # (model, twin, batch) of a step
    layer_sides: tuple  # (side, opset), those first that the most depends on
    network_sides: tuple
    rivals: dict  # model → (ways of PyTorch's to run it, batches)
    served: str  # by serve-bench

    def groups(self):
        """Stage → its files, in the order in which they are measured: a side of all subjects before the next side."""
        return {
            "layers": [file for side in self.layer_sides for file in _of(self.layers, *side)],
            "networks": [file for side in self.network_sides for file in _of(self._with(*side), *side)],
        }

    def files(self):
        return [file for group in self.groups().values() for file in group]

    def batches(self, subject):
        return (self.layers[subject][1],) if subject in self.layers else self.networks[subject][2]

    def _with(self, side, opset):
        """The networks that have that side: some have no twin."""
        return [subject for subject, (_, twin, _) in self.networks.items() if twin or side != PLAIN]

    def ratios(self):
        """(what, first file without its dtype, second, batch): first ÷ second is a row of the table."""
        files = {(file.subject, file.side, file.opset) for file in self.files()}
        opsets = sorted({opset for _, _, opset in files})
        for subject in (*self.layers, *self.networks):
            for batch, (words, first, second), opset in product(self.batches(subject), RATIOS, opsets):
                sides = (subject, first, opset), (subject, second, opset)
                if files.issuperset(sides):
                    compared = f": {words}" if words else f" ÷ {self.networks[subject][1]}"
                    yield f"{subject}{compared}, batch {batch}, opset {opset}", *sides, batch


def _of(subjects, side, opset):
    return [File(subject, side, opset, dtype) for subject in subjects for dtype in DTYPES]


# What the table calls a ratio (one beside the twin is called by the twin's name), and its two sides.
RATIOS = (("naive ÷ ours", NAIVE, OURS), ("unpadded ÷ padded", UNPADDED, OURS), (None, OURS, PLAIN))

WAYS = ("eager", "compile", "max-autotune")

FULL = Plan(
    layers={"layer_32x32": (32, 32), "layer_64x64": (64, 8)},
    networks={
        "aa_resnet50": ("aa_resnet50", "resnet50", (1, 32)),
        "aa_wrn28_10": ("aa_wrn28_10_cifar100", "wrn28_10_cifar100", (32,)),
    },
    training=("aa_resnet50", "resnet50", 32),
    layer_sides=((OURS, 23), (NAIVE, 20), (OURS, 20), (UNPADDED, 23), (NAIVE, 23)),
    network_sides=((OURS, 23), (PLAIN, 23), (NAIVE, 20), (OURS, 20), (PLAIN, 20)),
    rivals={"aa_resnet50": (WAYS, (1, 32)), "aa_wrn28_10_cifar100": (WAYS, (32,))},
    served="aa_cnn3_digits",
)
QUICK = Plan(
    layers={"layer_8x8": (8, 2)},
    networks={"aa_cnn3": ("aa_cnn3_digits", "conv_cnn3_digits", (2,))},
    training=("aa_cnn3_digits", "conv_cnn3_digits", 2),
    layer_sides=((OURS, 23), (NAIVE, 20), (OURS, 20), (UNPADDED, 23)),
    network_sides=((OURS, 23), (PLAIN, 23)),
    # What compiling attention takes on a CPU is a minute, and shows nothing more.
    rivals={"aa_cnn3_digits": (("eager",), (2,)), "conv_cnn3_digits": (("compile",), (2,))},
    served="conv_cnn3_digits",
)
PLANS = {"full": FULL, "quick": QUICK}
