"""What a page tells of the records that a folder keeps: as they are really written, of every precision."""

import json

from fewer_bits import folder_in_fewer_bits

from aaexport.folder import sha256
from aaexport.parity import ParityReport
from aaexport.parity.guard import GuardAccuracy, GuardReport, guard_row
from aaexport.pipeline.look.records import kept_records


def verdict(folder, dtype, accuracy=None):
    """Writes what `verify` does of a file in fewer bits."""
    values = (36.46, 61.4)
    rows = [guard_row("SQNR", dtype, "logits", "onnxruntime CPU", "it", value, 16, True, "") for value in values]
    guard = GuardReport(dtype, "16 images", tuple(rows), accuracy)
    path = folder.onnx_of(dtype)
    report = ParityReport(str(path), onnx_sha256=sha256(path), kind=dtype, guard=guard)
    folder.parity_of(dtype).write_text(json.dumps(report.to_dict()))


def test_a_file_in_fewer_bits_has_its_figure_and_its_accuracy(tmp_path):
    folder = folder_in_fewer_bits(tmp_path / "net")
    verdict(folder, "int8", GuardAccuracy.of(400, 396, 394))
    verdict(folder, "float16")
    verified, measured, notes = kept_records(folder)
    assert (measured, notes) == ((), ())
    found = {each.dtype: each for each in verified}
    assert found["int8"].passed and found["int8"].same_file
    assert found["int8"].figure == found["float16"].figure == "signal to noise 36.5 dB beside float32"
    assert found["int8"].accuracy == "99.00% of 400 held-out images in float32, 98.50% in int8"
    assert found["float16"].accuracy == ""


def test_what_cannot_be_read_is_a_note(tmp_path):
    folder = folder_in_fewer_bits(tmp_path / "net")
    folder.parity_of("int8").write_text('{"schema": "aaexport.parity/2"}')
    folder.parity_of("float16").write_text("{")
    verified, _, notes = kept_records(folder)
    assert verified == ()
    assert [note.split(" is not as it was written")[0] for note in notes] == ["parity.fp16.json", "parity.int8.json"]


def test_figures_of_which_nothing_can_be_computed_are_a_note(tmp_path):
    """No image, and more of them than there are numbers."""
    folder = folder_in_fewer_bits(tmp_path / "net")
    verdict(folder, "int8", GuardAccuracy.of(400, 396, 394))
    written = folder.parity_of("int8").read_text()
    for images in ("0", "1e999"):
        folder.parity_of("int8").write_text(written.replace('"images": 400', f'"images": {images}'))
        verified, _, notes = kept_records(folder)
        assert verified == ()
        assert notes[-1].startswith("parity.int8.json is not as it was written, and is left out: ")
