"""A measurement as a page: whole, legible, of limited size, and under a policy that lets it fetch and run nothing."""

import dataclasses
import html
import itertools
import json
import re
import shutil
import socket
import subprocess
import threading
from xml.etree import ElementTree

import numpy as np
import pytest
from bench_reports import (
    CPU,
    DISTURBED,
    FULL,
    HOSTILE,
    INT8,
    INTERRUPTED,
    INVALID,
    MINIMAL,
    NOTHING,
    OFFLINE,
    REPORTS,
    STALL,
    log,
    lost,
)

from aaexport.load.measurement import ParityRecord, Throughput
from aaexport.load.statistics import Ratio
from aaexport.report.bench import wording
from aaexport.report.bench.figures import issue_delays, series, unanswered
from aaexport.report.bench.html import bench_html
from aaexport.report.page.markup import Html, element
from aaexport.report.page.page import style
from aaexport.report.page.plot import Axis
from aaexport.report.printable import printable

BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome", "chrome"))), None)
DARK = "--blink-settings=preferredColorScheme=0"
RATIOS, BARS = "Latency ÷ that of onnxruntime CPU", ".//svg[@class='bars']"
PHONE, TABLET = 360, 900  # pixels; on the wider one two cards stand side by side
SCREENS = tuple(itertools.product(REPORTS, (PHONE, TABLET)))
every_report = pytest.mark.parametrize("report", REPORTS.values(), ids=REPORTS)


def parsed(report):
    """The page as a tree: what it writes is well-formed, as XML is, which HTML need not be."""
    return ElementTree.fromstring(bench_html(report).removeprefix("<!DOCTYPE html>\n"))


def text_of(report):
    return " ".join(" ".join(parsed(report).find("body").itertext()).split())


def charts_of(report):
    return {svg.find("title").text: svg.find("desc").text for svg in parsed(report).iter("svg") if svg.get("role")}


# What it says


@every_report
def test_the_page_begins_with_the_model_and_the_verdict(report):
    page = parsed(report)
    assert page.find("body/main/header/h1").text == printable(report.model)
    assert wording.verdict(report) in "".join(page.find("body/main/div").itertext())
    for remark in (*report.reasons, *report.warnings, *report.notes):
        assert printable(remark) in text_of(report)


def test_a_figure_that_may_not_be_quoted_is_told_apart():
    assert 'class="tiles doubtful"' in bench_html(INVALID)
    assert 'class="tiles"' in bench_html(FULL)


def test_every_chart_says_what_it_shows():
    told = charts_of(FULL)
    assert list(told) == [
        "Latency ÷ that of onnxruntime CUDA", "How latencies are distributed", "Latency over time",
        "Throughput against latency", "p99 of every rate that was tried",
    ]  # fmt: skip
    slowest = wording.milliseconds(STALL)
    assert f"slowest {slowest}" in told["How latencies are distributed"]
    assert f"the slowest, {slowest}, was due at 29.32 s" in told["Latency over time"]
    assert "PyTorch eager cpu float32 4.31 (4.20–4.90)" in told["Latency ÷ that of onnxruntime CUDA"]


@every_report
def test_ids_are_unique_and_every_chart_and_table_has_a_name(report):
    page = parsed(report)
    ids = [node.get("id") for node in page.iter() if node.get("id")]
    assert len(set(ids)) == len(ids)
    for svg in page.iter("svg"):
        assert svg.get("class") == "data" or set(svg.get("aria-labelledby").split()) <= set(ids)
    for table in page.iter("table"):
        assert table.find("caption").text
        assert len({len(row) for row in table.iter("tr")}) == 1


@pytest.mark.parametrize("report", [NOTHING, OFFLINE], ids=["nothing", "offline"])
def test_without_enough_to_draw_there_is_no_empty_chart(report):
    assert "nan" not in bench_html(report).lower().replace("naming", "")
    assert set(charts_of(NOTHING)) == set()


def test_what_is_withheld_has_no_chart_and_a_reason():
    assert "Latency ÷ that of onnxruntime CPU" not in charts_of(INVALID)
    assert "÷ ours is withheld: other processes took 61% of the CPU" in text_of(INVALID)
    unknown = dataclasses.replace(CPU, throughput=(Throughput(1, 1, 9.0, None, None), CPU.throughput[0]))
    assert "Throughput against latency" not in charts_of(unknown)


def tiles_of(report):
    return [" ".join(tile.itertext()) for tile in parsed(report).find(".//dl[@class]").findall("div")]


def test_every_tile_says_itself_whether_to_believe_it():
    assert [tile for tile in tiles_of(INVALID) if "not to be quoted" not in tile] == []
    assert [tile for tile in tiles_of(DISTURBED) if "mind the warnings" not in tile] == []
    assert [tile for tile in tiles_of(CPU) if "not to be quoted" in tile or "mind the warnings" in tile] == []


def test_a_withheld_comparison_keeps_its_tile_and_the_reason():
    assert "PyTorch eager cpu float32 withheld other processes took 61% of the CPU" in tiles_of(DISTURBED)[-1]


def test_the_comparison_stands_beside_the_tiles():
    first = parsed(CPU).find("body/main/div[@class='first']")
    assert [part.tag for part in first] == ["dl", "section"]
    assert first.find("section/h2").text == "Beside other ways to run it"
    assert parsed(MINIMAL).find("body/main/div[@class='first']") is None


def bars_of(report):
    return [rect.get("class") for rect in parsed(report).find(BARS).iter("rect")]


def test_bars_tell_the_p50_too_and_are_hollow_where_the_ratio_is_withheld():
    assert bars_of(CPU) == ["ours", "other", "other"]
    assert "torch.compile cpu float32 2.04 (1.95–2.21), p50 0.510 ms" in charts_of(CPU)[RATIOS]
    assert bars_of(DISTURBED) == ["ours", "hollow"]
    assert charts_of(DISTURBED)[RATIOS] == "PyTorch eager cpu float32 withheld, p50 1.040 ms"
    assert "A hollow bar is p50 ÷ ours alone" in text_of(DISTURBED)
    assert "A hollow bar" not in text_of(CPU)


def test_a_hollow_bar_is_as_long_as_its_p50():
    ours, other = (float(rect.get("width").rstrip("%")) for rect in parsed(DISTURBED).find(BARS).iter("rect"))
    p50 = next(found.value for found in DISTURBED.percentiles if found.p == 50)
    assert other / ours == pytest.approx(1.04 / p50, rel=1e-3)


def test_what_a_chart_leaves_out_is_said():
    assert "Left out of the chart, for want of a ratio and a p50: torch.compile cpu float32" in text_of(DISTURBED)
    assert "Left out of the chart, for want of a p99: 1,000 queries/s" in text_of(FULL)
    assert "Left out" not in text_of(CPU)
    unknown = dataclasses.replace(CPU, throughput=(*CPU.throughput, Throughput(64, 4, 9.0, None, None)))
    assert "Left out of the chart, for want of a p50: batch 64, 4 clients" in text_of(unknown)
    assert "Not drawn: fewer than two rows have a p50." in text_of(INTERRUPTED)


def test_different_answers_are_said_where_the_bars_are():
    assert "torch.compile cpu float32: DIFFERENT answers" in text_of(DISTURBED)
    assert "DIFFERENT answers" not in text_of(CPU)


# The model card


def card_of(report):
    (card,) = (part for part in parsed(report).iter("section") if part.find("h2").text == "Model card")
    cells = [" ".join(cell.itertext()) for cell in card.find("dl")]
    return dict(zip(cells[::2], cells[1::2], strict=True))


def test_the_card_says_what_the_file_is_and_when_it_was_verified():
    assert card_of(CPU) == {
        "model": "aa_cnn3_digits",
        "operators": "24 nodes: 6 Conv, 6 MatMul, 3 Softmax, 9 Add",
        "size": "0.55 MB, 137,210 floating-point numbers",
        "MACs": "5,600,112 per image",
        "opset": "20",
        "parity": "PASS, 2026-01-31T09:12:44Z, largest error 2.9e-06 against float64",
        "SHA-256": CPU.onnx_sha256,
    }


@pytest.mark.parametrize(
    ("record", "words"),
    [
        (None, "never verified, as far as is known; verify it with `aaexport verify`"),
        (ParityRecord(True, 1e-6, "2026-01-31T09:12:44Z", False),
         "not known: the verification of 2026-01-31T09:12:44Z is of another file; verify it with `aaexport verify`"),
        (ParityRecord(False, None, None, True), "FAIL, at a date that was not kept"),
    ],
)  # fmt: skip
def test_a_card_never_claims_a_verification_that_does_not_hold(record, words):
    report = dataclasses.replace(CPU, card=dataclasses.replace(CPU.card, parity=record))
    assert card_of(report)["parity"] == words
    assert f'<span class="wrong">{words}</span>' in bench_html(report)
    assert 'class="wrong"' not in bench_html(CPU)


def test_a_file_in_fewer_bits_has_its_loss_and_a_picture_of_its_layers():
    (told,) = (told for title, told in charts_of(INT8).items() if title == "Signal to noise of each layer")
    assert told == "3 layers; the lowest is stages.2 with 33.9 dB"
    assert card_of(INT8)["kind"] == "int8"
    text = text_of(INT8)
    for said in ("What fewer bits cost", "TOO MUCH", "What the guard saw", "stages.1.attention: it cost most",
                 "stages.1.qkv 40.3 –"):  # fmt: skip
        assert said in text, said
    assert "What the guard saw" not in text_of(CPU)


def test_without_a_card_the_digest_is_still_told():
    report = dataclasses.replace(CPU, card=None)
    assert "Model card" not in text_of(report)
    assert CPU.onnx_sha256 in text_of(report)


def test_the_page_says_when_and_by_which_command_it_was_measured():
    assert "Latency report, 2026-01-31T09:30:00Z" in text_of(CPU)
    (environment,) = (s for s in parsed(CPU).iter("section") if s.find("h2").text == "Environment")
    said = [" ".join(cell.itertext()) for cell in environment.find("dl")]
    assert said[said.index("command") + 1] == "aaexport serve-bench aa_cnn3_digits"


def test_extreme_figures_can_be_drawn():
    ratio = Ratio(1e-3, 1e-3, 1e3, 6, 1e-3, 1e3)
    report = dataclasses.replace(
        CPU,
        blocks=(log([0.0] * 50), log([1e6, 1e-6])),
        comparisons=(dataclasses.replace(CPU.comparisons[0], ratio=ratio),),
        throughput=(Throughput(1, 1, 1e-9, 1e-9, 0.0), Throughput(1, 1, 1e12, 0.0, 1e9)),
    )
    assert not re.search(r"\bnan\b|\binf\b", bench_html(report))


# Series


def test_a_single_stall_among_many_queries_is_drawn_and_the_page_stays_small():
    latencies = np.random.default_rng(0).gamma(30, 0.1, 300_000)
    latencies[154_321] = STALL
    report = dataclasses.replace(FULL, blocks=(log(latencies, gap=1.0),))
    thinned = series(report).thinned(400)
    assert thinned.latencies.max() == STALL
    assert len(thinned.seconds) <= 1200
    assert len(bench_html(report).encode()) < 300_000


def test_blocks_lie_end_to_end_in_the_order_of_their_schedule():
    block = log([1.0, 5.0, 2.0], gap=10.0)
    shuffled = dataclasses.replace(block, scheduled=block.scheduled[::-1], completed=block.completed[::-1])
    found = series(dataclasses.replace(MINIMAL, blocks=(lost(block, 1), shuffled)))
    assert found.seconds.tolist() == pytest.approx([0.0, 0.02, 0.022, 0.032, 0.042])
    assert found.latencies.tolist() == [1.0, 2.0, 1.0, 5.0, 2.0]
    assert found.starts == pytest.approx((0.022,))
    assert sum(inside.size for _, _, inside in found.windows(7)) == 5


def test_what_has_no_answer_is_counted_and_not_drawn():
    report = dataclasses.replace(MINIMAL, blocks=(lost(log([1.0] * 9, delay=0.5), 0, 8),))
    assert (unanswered(report), len(series(report).seconds), len(issue_delays(report))) == (2, 7, 9)


@pytest.mark.parametrize("values", [(0.2, 0.4), (0.0, 0.0), (1e-3, 1e5), (3.0,), (0.0, 1e-9, 1e9), (7, 7.001)])
@pytest.mark.parametrize("from_zero", [True, False])
def test_an_axis_holds_every_value_and_a_few_round_ticks(values, from_zero):
    axis = Axis.around("x", values, from_zero=from_zero)
    assert all(0 <= axis.place(value) <= 1 for value in values)
    assert 1 <= len(axis.ticks()) <= 7
    assert all(0 <= axis.place(tick) <= 1 for tick in axis.ticks())
    for share in (0.0, 0.3, 1.0):
        assert axis.place(axis.value(share)) == pytest.approx(share, abs=1e-6)


def test_beside_a_stall_the_other_latencies_are_still_told_apart():
    axis = Axis.around("x", (1.0, STALL))
    assert axis.place(2.0) - axis.place(1.0) > 0.05
    assert "latency, ms (logarithmic)" in text_of(FULL)
    assert "latency, ms (logarithmic)" not in text_of(MINIMAL)


# Safety


def test_text_of_anybody_is_no_markup():
    assert element("p", "<b>", Html("<i></i>"), None, class_='"x"') == '<p class="&quot;x&quot;">&lt;b&gt;<i></i></p>'
    page = parsed(REPORTS["hostile"])
    assert not list(page.iter("script"))
    assert printable(HOSTILE) in text_of(REPORTS["hostile"])
    assert not re.search("[\x00-\x09\x0b-\x1f\x7f-\x9f\ud800-\udfff]", bench_html(REPORTS["hostile"]))


@every_report
def test_nothing_is_fetched(report):
    links = [value for node in parsed(report).iter() for key, value in node.attrib.items() if key in ("src", "href")]
    assert links == ["data:,"]
    assert not re.search(r"url\(|@import|https?:", bench_html(report))


# How it looks


def luminance(colour):
    """Relative luminance, as WCAG 2 defines it."""
    channels = (int(colour[place : place + 2], 16) / 255 for place in (1, 3, 5))
    red, green, blue = (c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


@pytest.mark.parametrize("palette", [0, 1], ids=["light", "dark"])
def test_contrasts_are_those_that_wcag_asks_for(palette):
    colours = dict(
        re.findall(r"--(\w+): (#\w{6})", re.findall(r":root \{(.*?)\}", style(), flags=re.DOTALL)[palette])
    )
    for name, least in {"ink": 7, "dim": 4.5, "accent": 4.5, "good": 4.5, "mind": 4.5, "bad": 4.5,
                        "second": 3, "third": 3, "fourth": 3}.items():  # fmt: skip
        for ground in ("page", "card"):
            light, dark = sorted(map(luminance, (colours[name], colours[ground])), reverse=True)
            assert (light + 0.05) / (dark + 0.05) >= least, (name, ground)


# In a browser


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    """Opens a page → (what became of it, what its console said)."""
    if BROWSER is None:
        pytest.skip("no chromium or chrome is on the PATH: the page is looked at in none")

    def show(page, *options):
        folder = tmp_path_factory.mktemp("browser")
        (folder / "page.html").write_text(page, encoding="utf-8")
        quiet = ("--no-first-run", "--disable-gpu", "--disable-background-networking", "--enable-logging=stderr")
        own = f"--user-data-dir={folder / 'profile'}"
        command = [BROWSER, "--headless", "--no-sandbox", "--hide-scrollbars", own, *quiet, *options, "--dump-dom"]
        command.append((folder / "page.html").as_uri())
        outcome = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
        return outcome.stdout, [line for line in outcome.stderr.splitlines() if "CONSOLE" in line]

    return show


MEASURE = """
<pre></pre><script>
function measure(frame) {
  const page = frame.contentDocument, root = page.documentElement, box = part => part.getBoundingClientRect();
  page.querySelectorAll("details").forEach(part => part.open = true);
  const count = (parts, wrong) => [...page.querySelectorAll(parts)].filter(wrong).length;
  return {
    title: page.title,
    ground: getComputedStyle(page.body).backgroundColor,
    overflow: root.scrollWidth - root.clientWidth,
    cut: count(".tiles dd, h1, li, th, td", part => part.scrollWidth > part.clientWidth + 1),
    scrolled: count(".scroll", part => part.scrollWidth > part.clientWidth),
    tables: count("table", table => box(table).width > 0),
    outside: count("svg text", text => box(text).left < 0 || box(text).right > root.clientWidth),
    small: count("svg text", text => parseFloat(getComputedStyle(text).fontSize) < 11),
    narrow: count("svg[role]", chart => box(chart).width < 200),
  };
}
onload = () => {
  const found = [...document.querySelectorAll("iframe")].map(measure);
  document.querySelector("pre").append(JSON.stringify(found));
}
</script>
"""


@pytest.fixture(scope="module")
def on_screens(browser):
    """(report, width of the screen) → what a browser makes of its page, in light and in dark mode; the console."""
    frames = "".join(
        f'<iframe width="{width}" height="640" srcdoc="{html.escape(bench_html(REPORTS[name]))}"></iframe>'
        for name, width in SCREENS
    )
    found, console = [], []
    for options in ((), (DARK,)):
        page, said = browser(f"<!DOCTYPE html><body>{frames}{MEASURE}</body>", *options)
        console += said
        measured = json.loads(html.unescape(re.search(r"<pre>(.*)</pre>", page, flags=re.DOTALL)[1]))
        found.append(dict(zip(SCREENS, measured, strict=True)))
    return *found, console


@pytest.mark.parametrize(("name", "width"), SCREENS)
def test_a_page_fits_on_a_screen(on_screens, name, width):
    page = on_screens[0][name, width]
    assert page["title"]
    assert page["tables"] == len(list(parsed(REPORTS[name]).iter("table")))
    fits = {"overflow": 0, "cut": 0, "scrolled": 0, "outside": 0, "small": 0, "narrow": 0}
    assert {key: page[key] for key in fits} == fits


def test_dark_mode_is_dark_and_light_is_light(on_screens):
    light, dark, _ = on_screens
    assert {page["ground"] for page in light.values()} == {"rgb(244, 246, 248)"}
    assert {page["ground"] for page in dark.values()} == {"rgb(15, 20, 26)"}


def test_a_browser_has_nothing_to_complain_about(on_screens):
    assert on_screens[2] == []


def show_and_hang_up(browser, page, server):
    """(the page, the console, whether the server was asked); asked, it hangs up, and the browser does not wait."""
    asked = []

    def answer():
        while not done.is_set():
            try:
                connection, _ = server.accept()
            except TimeoutError:
                continue
            asked.append(True)
            connection.close()

    done = threading.Event()
    thread = threading.Thread(target=answer)
    thread.start()
    try:
        shown, complaints = browser(page)
    finally:
        done.set()
        thread.join()
    return shown, complaints, bool(asked)


@pytest.mark.parametrize("with_policy", [True, False])
def test_the_policy_holds_back_what_slipped_in(browser, with_policy):
    """A script and a picture that no escaping caught: neither runs, and nobody is asked for it."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(0.5)
        slipped = f'<script>document.title = "taken"</script><img src="http://127.0.0.1:{server.getsockname()[1]}/"/>'
        page = bench_html(MINIMAL).replace("</body>", f"{slipped}</body>")
        if not with_policy:
            page = re.sub(r"<meta http-equiv[^>]*>", "", page)
        shown, complaints, asked = show_and_hang_up(browser, page, server)
        assert ("<title>taken</title>" in shown, asked) == (not with_policy, not with_policy)
        assert any("Content Security Policy" in line for line in complaints) is with_policy
