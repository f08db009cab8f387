"""A recipe's data set → labelled images → normalised batches on a device.

`sources` names the data sets, `images` holds what was read, `views` says what the network sees of an image and
`loading` makes batches of it. Nothing here reaches the network unless `download` is set.
"""

from aaexport.data.images import DecodedImages, Images, StoredImages
from aaexport.data.loading import batches, epoch_draws, evaluation_batch, sample
from aaexport.data.one_image import read_image, read_sample
from aaexport.data.request import Request, Split
from aaexport.data.sources import SOURCES, Source, load_images

__all__ = [
    "SOURCES",
    "DecodedImages",
    "Images",
    "Request",
    "Source",
    "Split",
    "StoredImages",
    "batches",
    "epoch_draws",
    "evaluation_batch",
    "load_images",
    "read_image",
    "read_sample",
    "sample",
]
