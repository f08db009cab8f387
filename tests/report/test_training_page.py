"""train.html: self-contained, every figure in it, honest about what is missing, and fit for any name and number."""

import base64
import io
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from pages import axe_violations, shown

from aaexport.report.attention_course import attention_course
from aaexport.report.attention_picture import VIRIDIS
from aaexport.report.page.plot import Axis
from aaexport.report.training_page import training_page
from aaexport.runners.browser import find_browser
from aaexport.training.glimpses import AttentionCourse, Glimpse
from aaexport.training.records import Epoch, TrainResult


def epochs(count, *, loss=2.0):
    return tuple(
        Epoch(n, loss / n, 0.5, 0.25 + 0.5 * n / count, 0.9, 0.1 / n, 100.0 + n, 1.5) for n in range(1, count + 1)
    )


def result(name="aa", count=3, **changes):
    told = {"folder": Path("models") / name, "epochs": epochs(count), "device": "cpu", "precision": "float32"}
    return TrainResult(**told | {"classes": 10, "dataset": "digits", "planned": count} | changes)


def course(names=("cat", "dog"), channels=1, glimpses=2):
    rng = np.random.default_rng(0)
    seen = []
    for epoch in range(glimpses):
        raw = rng.random((2, 3, 4, 6), dtype=np.float32)
        told = np.array([0, 1]), np.array([0.5, 0.75], np.float32)
        seen.append(Glimpse(epoch, raw / raw.sum((2, 3), keepdims=True), *told))
    images = rng.integers(0, 256, (2, 8, 12, channels), dtype=np.uint8)
    return AttentionCourse("features.6", 5, images, names, names, tuple(seen))


class Reader(HTMLParser):
    """Elements with their attributes, and text."""

    def __init__(self, page):
        super().__init__()
        self.elements, self.words = [], []
        self.feed(page)

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))

    def handle_data(self, data):
        self.words.append(data)

    @property
    def text(self):
        return " ".join(" ".join(self.words).split())

    def all(self, tag):
        return [attributes for name, attributes in self.elements if name == tag]


def cells(page):
    """The body of every table, row by row."""
    return [re.findall(r"<t[hd][^>]*>([^<]*)", row) for row in re.findall(r"<tr>(.*?)</tr>", page)]


def test_the_page_needs_nothing_else():
    page = training_page([result(attention=course()), result("conv")])
    reader = Reader(page)
    assert not reader.all("script")
    (policy,) = (meta["content"] for meta in reader.all("meta") if "http-equiv" in meta)
    assert policy.startswith("default-src 'none'; style-src 'sha256-")
    links = [
        value for _, attributes in reader.elements for key, value in attributes.items() if key in ("href", "src")
    ]
    assert links
    assert all(link.startswith("data:") for link in links)
    assert not any("style" in attributes for _, attributes in reader.elements), "the policy lets none be applied"


def test_every_epoch_is_a_row_with_its_numbers():
    page = training_page([result(count=40)])
    rows = [row for row in cells(page) if len(row) == 8 and row[0].isdigit()]
    assert [int(row[0]) for row in rows] == list(range(1, 41))
    assert rows[3] == ["4", "0.5000", "50.00%", "30.00%", "90.00%", "0.025", "104", "1.5"]


def test_every_chart_says_what_it_shows():
    reader = Reader(training_page([result()]))
    charts = [svg for svg in reader.all("svg") if svg.get("class") == "chart"]
    assert len(charts) == 4
    assert {svg["role"] for svg in charts} == {"img"}
    assert "aa: 2.0000 → 0.6667 over 3 epochs" in reader.text
    assert "aa: 41.67 % → 75.00 % over 3 epochs" in reader.text


def test_two_models_are_beside_each_other_and_have_a_colour_each():
    page = training_page([result("conv"), result("aa", attention=course())])
    assert "<h1>conv and aa</h1>" in page
    rows = [row for row in cells(page) if row and row[0] in ("conv", "aa")]
    assert rows[1] == ["aa", "3", "0.6667", "50.00%", "75.00%", "75.00%", "102", "1.50 s"]
    for kind in ("series-0", "series-1"):
        assert len(re.findall(f'class="line {kind}"', page)) == 4
        assert len(re.findall(f'class="line {kind} dashed"', page)) == 1
    assert "Where aa looks" in page
    assert "Where conv looks" not in page


def test_folders_of_one_name_are_told_apart():
    page = training_page([result(folder=Path("a/net")), result(folder=Path("b/net"))])
    assert "<h1>a/net and b/net</h1>" in page


def test_notes_and_remarks_are_told_once():
    page = training_page(
        [result(notes=("trained on <few> images",))], ["others took 76% of the CPU", "others took 76% of the CPU"]
    )
    assert page.count("Note: trained on &lt;few&gt; images") == 1
    assert page.count("Note: others took 76% of the CPU") == 1


def test_a_training_that_is_not_finished_says_so():
    page = training_page([result(planned=30)])
    assert "! Not finished" in page
    assert "aa: 3 of 30 epochs" in page
    assert "Not finished" not in training_page([result()])


@pytest.mark.parametrize(
    "changes",
    [
        {"count": 1},
        {"epochs": epochs(3, loss=0.0)},
        {"epochs": epochs(5, loss=1e6)},
        {"epochs": (Epoch(1, 1e-30, 1.0, 1.0, 1.0, 0.0, 1e9, 1e-4),)},
        {"epochs": tuple(Epoch(n, 1.0, 0.0, 0.0, 0.0, 1e-12, 0.1, 1e6) for n in (1, 2))},
        {"count": 2000},
    ],
    ids=["one epoch", "no loss", "huge loss", "perfect", "nothing learned", "many"],
)
def test_any_numbers_can_be_drawn(changes):
    page = training_page([result(**changes)])
    places = [float(place) for place in re.findall(r'(?:x|y)[12]?="(-?[\d.]+)%"', page)]
    assert places
    assert all(0 <= place <= 100 for place in places)
    assert not re.search(r"nan|inf\b", re.sub(r"<style>.*?</style>", "", page, flags=re.DOTALL))


def test_an_axis_of_epochs_has_whole_numbers_only():
    for last in (2, 3, 5, 12, 90, 1000):
        ticks = Axis("epoch", 1.0, last, whole=True).ticks()
        assert ticks
        assert all(tick == int(tick) for tick in ticks)


def test_names_are_no_markup():
    page = training_page([result("<b>&", attention=course(names=("<i>", '"><script>')))])
    assert "<script" not in page
    assert "<b>" not in page.replace('<b class="series-0">', "")
    assert "&lt;b&gt;&amp;" in page


@pytest.mark.parametrize("channels", [1, 3])
def test_a_map_is_drawn_for_every_head_and_epoch_in_one_scale(channels):
    from PIL import Image

    seen = course(channels=channels)
    drawn = attention_course(seen)
    reader = Reader(drawn)
    largest = max(float(glimpse.weights.max()) for glimpse in seen.glimpses) * 24
    assert f"Colours from 0, dark, to {largest:.3g} × uniform, bright" in drawn
    assert "3 of its 5 heads" in reader.text
    labels = [svg["aria-label"] for svg in reader.all("svg") if svg["class"] == "map"]
    assert len(labels) == 2 * (1 + 2 * 3)
    assert "Held-out image 1: cat" in labels
    pictures = [base64.b64decode(image["href"].split(",")[1]) for image in reader.all("image")]
    sizes = [Image.open(io.BytesIO(picture)).size for picture in pictures]
    assert sizes == [(64, 1), *([(12, 8), *[(6, 4)] * 6] * 2)]
    weights = seen.glimpses[0].weights[0, 0]
    row, column = np.unravel_index(weights.argmax(), weights.shape)
    said = f"head 0: at most {weights.max() * 24:.3g} × uniform, at row {row + 1}, column {column + 1}"
    assert f"before training, {said}" in labels
    shown = np.asarray(Image.open(io.BytesIO(pictures[2])))
    expected = np.interp(weights * 24 / largest, np.linspace(0, 1, len(VIRIDIS)), [red for red, _, _ in VIRIDIS])
    assert np.abs(shown[..., 0] - expected).max() <= 1


def test_what_an_image_is_taken_for_stands_beside_its_epoch():
    assert re.search(r"<th scope=\"row\">1<span>dog, 75%</span></th>", attention_course(course()))


def test_images_without_labels_and_classes_without_names_are_numbers():
    seen = course()
    drawn = attention_course(replace(seen, labels=("", ""), names=()))
    assert "Held-out image 1</p>" in drawn
    assert "<span>1, 75%</span>" in drawn


def test_results_have_their_page_in_python():
    own = result()  # once: it has the second in which it was made
    assert own.to_html() == training_page([own])


# Whether the name of a curve and what it ends with are in one line, of those with short names.
IN_ONE_LINE = """
[...document.querySelectorAll('span.curve')].filter(key => key.textContent.includes('_digits')).map(key => {
  const range = document.createRange();
  range.selectNodeContents(key);
  const ends = [...range.getClientRects()].map(box => box.bottom);
  return Math.max(...ends) - Math.min(...ends) < 8;
})"""


@pytest.mark.slow
@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [390, 1280])
def test_it_fits_and_axe_has_nothing_to_complain_of(width, scheme):
    if find_browser() is None:
        pytest.skip("no chromium or chrome is on the PATH: no page is shown")
    long = "a_network_with_a_name_that_is_much_longer_than_a_telephone_is_wide_and_goes_on"
    names = ("conv_cnn3_digits", "aa_cnn3_digits")
    page = training_page([result(long, 12, attention=course(), planned=30), *(result(name, 12) for name in names)])
    with shown(page, width, scheme) as browser:
        browser.evaluate("document.querySelectorAll('details').forEach(each => each.open = true)")
        assert browser.evaluate("document.documentElement.scrollWidth") == width
        assert browser.evaluate(IN_ONE_LINE) == [True] * 4 * len(names)
        assert axe_violations(browser) == []
