"""A model folder's recipe and data set → trained weights, golden vectors and a log; resumable at any moment.

`run` is one training and `compare` several in turn. `learner` takes the steps, `schedule` and `randomness` say how,
`distributed` shares them out, `evaluation` judges, `checkpoint` keeps, `records` tells.
"""

from typing import TYPE_CHECKING

from aaexport.lazy import lazily

if TYPE_CHECKING:
    from aaexport.training.compare import TrainingComparison, compare_training
    from aaexport.training.evaluation import accuracy
    from aaexport.training.options import TrainOptions, TrainOverrides
    from aaexport.training.records import Epoch, TrainResult, Watcher
    from aaexport.training.run import train
    from aaexport.training.schedule import learning_rate

__all__ = [
    "Epoch",
    "TrainOptions",
    "TrainOverrides",
    "TrainResult",
    "TrainingComparison",
    "Watcher",
    "accuracy",
    "compare_training",
    "learning_rate",
    "train",
]

_HOMES = {
    "Epoch": "records",
    "TrainOptions": "options",
    "TrainOverrides": "options",
    "TrainResult": "records",
    "TrainingComparison": "compare",
    "Watcher": "records",
    "accuracy": "evaluation",
    "compare_training": "compare",
    "learning_rate": "schedule",
    "train": "run",
}
__getattr__, __dir__ = lazily(__name__, __all__, _HOMES)
