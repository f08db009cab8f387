"""What is measured on a GPU: the files, how each is run, and the ratios that the table makes of it."""

from dataclasses import dataclass

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
    """Which layers (by their sizes), networks (each with its twin of plain convolutions), and batches."""

    layers: dict  # subject → (side of the map, batch)
    networks: dict  # subject → (model, twin, batches)
    training: tuple  # (model, twin, batch) of a step
    served: str = "aa_cnn3_digits"

    def groups(self):
        """Stage → its files, those first that the most depends on."""
        return {
            "layers": [file for subject in self.layers for file in self._of_layer(subject)],
            "networks": [file for subject in self.networks for file in self._of_network(subject)],
        }

    def files(self):
        return [file for group in self.groups().values() for file in group]

    def batches(self, subject):
        return (self.layers[subject][1],) if subject in self.layers else self.networks[subject][2]

    def _of_layer(self, subject):
        sides = ((OURS, 23), (NAIVE, 20), (OURS, 20), (UNPADDED, 23), (NAIVE, 23))
        return [File(subject, side, opset, dtype) for side, opset in sides for dtype in DTYPES]

    def _of_network(self, subject):
        _, twin, _ = self.networks[subject]
        sides = [(OURS, 23), (NAIVE, 20), (OURS, 20)] + ([(PLAIN, 23), (PLAIN, 20)] if twin else [])
        return [File(subject, side, opset, dtype) for side, opset in sides for dtype in DTYPES]

    def ratios(self):
        """(what, first file without its dtype, second, batch): first ÷ second is a row of the table."""
        for subject in self.layers:
            for batch in self.batches(subject):
                yield (
                    f"{subject}, batch {batch}: naive ÷ ours, opset 20",
                    (subject, NAIVE, 20),
                    (subject, OURS, 20),
                    batch,
                )
                yield (
                    f"{subject}, batch {batch}: naive ÷ ours, opset 23",
                    (subject, NAIVE, 23),
                    (subject, OURS, 23),
                    batch,
                )
                what = f"{subject}, batch {batch}: unpadded ÷ padded, opset 23"
                yield what, (subject, UNPADDED, 23), (subject, OURS, 23), batch
        for subject, (_, twin, batches) in self.networks.items():
            for batch in batches:
                yield (
                    f"{subject}, batch {batch}: naive ÷ ours, opset 20",
                    (subject, NAIVE, 20),
                    (subject, OURS, 20),
                    batch,
                )
                for opset in (20, 23) if twin else ():
                    what = f"{subject} ÷ {twin}, batch {batch}, opset {opset}"
                    yield what, (subject, OURS, opset), (subject, PLAIN, opset), batch


FULL = Plan(
    layers={"layer_32x32": (32, 32), "layer_64x64": (64, 8)},
    networks={
        "aa_resnet50": ("aa_resnet50", "resnet50", (1, 32)),
        "aa_wrn28_10": ("aa_wrn28_10_cifar100", "wrn28_10_cifar100", (32,)),
    },
    training=("aa_resnet50", "resnet50", 32),
)
QUICK = Plan(
    layers={"layer_8x8": (8, 2)},
    networks={"aa_wrn10_1": ("aa_wrn10_1_digits", "wrn10_1_digits", (2,))},
    training=("aa_wrn10_1_digits", "wrn10_1_digits", 2),
)
PLANS = {"full": FULL, "quick": QUICK}
