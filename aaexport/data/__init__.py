"""A recipe's data set → labelled images → normalised batches on a device.

`sources` names the data sets, `records` holds what was read of one and `evaluation` says what the network sees of it
when it is judged: in arrays. For training `images` has the same in torch tensors, `views` changes them and `loading`
makes batches of them. Nothing here reaches the network unless `download` is set.
"""

from typing import TYPE_CHECKING

from aaexport.lazy import lazily

if TYPE_CHECKING:
    from aaexport.data.evaluation import evaluation_images, sample, seen_file
    from aaexport.data.images import DecodedImages, Images, StoredImages
    from aaexport.data.loading import batches, epoch_draws, evaluation_batch
    from aaexport.data.one_image import read_image, read_sample
    from aaexport.data.records import EncodedRecords, Records, StoredRecords
    from aaexport.data.request import Request, Split
    from aaexport.data.sources import SOURCES, Source, load_images, load_records

__all__ = [
    "SOURCES",
    "DecodedImages",
    "EncodedRecords",
    "Images",
    "Records",
    "Request",
    "Source",
    "Split",
    "StoredImages",
    "StoredRecords",
    "batches",
    "epoch_draws",
    "evaluation_batch",
    "evaluation_images",
    "load_images",
    "load_records",
    "read_image",
    "read_sample",
    "sample",
    "seen_file",
]

_HOMES = {
    "SOURCES": "sources",
    "DecodedImages": "images",
    "EncodedRecords": "records",
    "Images": "images",
    "Records": "records",
    "Request": "request",
    "Source": "sources",
    "Split": "request",
    "StoredImages": "images",
    "StoredRecords": "records",
    "batches": "loading",
    "epoch_draws": "loading",
    "evaluation_batch": "loading",
    "evaluation_images": "evaluation",
    "load_images": "sources",
    "load_records": "sources",
    "read_image": "one_image",
    "read_sample": "one_image",
    "sample": "evaluation",
    "seen_file": "evaluation",
}
__getattr__, __dir__ = lazily(__name__, __all__, _HOMES)
