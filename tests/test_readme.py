"""The README, as a stranger meets it: short, its links lead somewhere, its numbers are those that were measured."""

import json
import os
import re
import subprocess
import sys

import console
import pytest
from repository import ROOT

README = (ROOT / "README.md").read_text(encoding="utf-8")
RESULTS = (ROOT / "docs/results.md").read_text(encoding="utf-8")
PAGES = [page.path for page in console.pages()]


def rows(name):
    """What was measured → its row, of a file in docs/results."""
    found = json.loads((ROOT / "docs/results" / name).read_text(encoding="utf-8"))["rows"]
    return {row["what"]: row for row in found}


ATTENTION = rows("attention_amd_epyc_2_cores.json") | rows("attention_memory_amd_epyc_2_cores.json")
OWN = rows("bring_your_own_amd_epyc_2cores.json")


def test_it_takes_two_minutes_to_read():
    assert len(README.splitlines()) <= 200


@pytest.mark.parametrize("path", PAGES, ids=lambda path: str(path.relative_to(ROOT)))
def test_links_lead_to_files_that_are_there(path):
    for target in re.findall(r"\]\(([^)#\s]+)(?:#[^)]*)?\)|(?:src|srcset)=\"([^\"]+)\"", path.read_text("utf-8")):
        link = "".join(target)
        assert link.startswith("https://") or (path.parent / link).exists(), f"{path.name}: {link}"


@pytest.mark.parametrize("what", ATTENTION)
def test_the_page_of_results_tells_what_was_measured_of_attention(what):
    row = ATTENTION[what]
    told = f"| {what} | {row['median']:.2f} | {row['lowest']:.2f} – {row['highest']:.2f} | {row['runs']} |"
    assert told in RESULTS


@pytest.mark.parametrize(
    ("label", "row"),
    [
        ("AA-ResNet-50, 224×224, batch 1", ATTENTION["aa_resnet50, batch 1: naive ÷ ours"]),
        ("AA-ResNet-50, 224×224, batch 8", ATTENTION["aa_resnet50, batch 8: naive ÷ ours"]),
        ("one augmented layer, 32×32, batch 4", ATTENTION["layer 32×32, batch 4: naive ÷ ours"]),
        ("one augmented layer, 64×64, batch 1", ATTENTION["layer 64×64, batch 1: naive ÷ ours"]),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_the_readme_tells_what_was_measured(label, row):
    told = f"{row['median']:.2f} ({row['lowest']:.2f}–{row['highest']:.2f})"
    assert f"| {label} | {told} |" in README


@pytest.mark.parametrize(
    ("label", "what", "digits"),
    [
        ("the reference's Wide-ResNet 28-10, 206 M parameters, 32×32", "Wide-ResNet 28-10", 2),
        ("the reference's Wide-ResNet 16-2, every layer augmented, 32×32", "Wide-ResNet 16-2", 1),
    ],
)
def test_the_readme_tells_what_was_measured_of_networks_that_others_trained(label, what, digits):
    row = OWN[f"{what}, batch 1: naive ÷ ours"]
    told = f"{row['median']:.{digits}f} ({row['lowest']:.1f}–{row['highest']:.1f})"
    assert f"| {label} | {told} |" in README


FEWER_BITS = json.loads((ROOT / "docs/results/fewer_bits_amd_epyc_2cores.json").read_text(encoding="utf-8"))


@pytest.mark.parametrize("row", FEWER_BITS["rows"], ids=lambda row: row["what"])
def test_the_pages_tell_what_was_measured_of_files_in_fewer_bits(row):
    lowest, highest = f"{row['lowest']:.2f}", f"{row['highest']:.2f}"
    assert f"| {row['what']} | {row['median']:.2f} | {lowest} – {highest} | {row['runs']} |" in RESULTS
    assert f"{row['median']:.2f} ({lowest}–{highest})" in README


@pytest.mark.parametrize("file", FEWER_BITS["files"], ids=lambda file: f"{file['model']}, {file['dtype']}")
def test_the_pages_tell_what_files_in_fewer_bits_lost(file):
    size = f"{file['bytes'] / file['of']:.2f}"
    accuracy = "–" if file["float32"] is None else f"{file['float32']:.2f} → {file['reduced']:.2f} %"
    told = f"| {size} | {file['sqnr_db']:.1f} dB | {accuracy} |"
    assert f"| {file['model']}, {file['dtype']} {told}" in RESULTS
    if "wrn" not in file["model"]:
        assert told in README


def test_as_many_right_exports_were_verified_as_the_readme_says():
    lines = (ROOT / "docs/results/false_alarms.jsonl").read_text(encoding="utf-8").splitlines()
    found = [json.loads(line) for line in lines]
    exports = {(row["model"], row["decomposition"], row["opset"]) for row in found}
    failed = [row for row in found if not row["passed"]]
    assert (
        f"{len(found):,} verifications of {len(exports)} right exports gave {len(failed) or 'no'} false alarm"
        in README
    )


@pytest.mark.slow
def test_the_picture_is_drawn_from_what_was_measured(tmp_path):
    script = ROOT / "docs/draw_overview.py"
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    subprocess.run([sys.executable, script, tmp_path], check=True, env=environment)
    for name in ("overview-light.svg", "overview-dark.svg"):
        drawn, shown = ((folder / name).read_text(encoding="utf-8") for folder in (tmp_path, ROOT / "docs/images"))
        assert len(drawn) < 200_000
        # Bars, operators and letters are paths: as many of each as in the picture that is shown.
        assert re.findall(r"<(path|use)\b", drawn) == re.findall(r"<(path|use)\b", shown)
