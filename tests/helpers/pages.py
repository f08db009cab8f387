"""A page that is driven as a visitor drives it, and stand-ins for npm's package onnxruntime-web."""

import base64
import json
import time
from contextlib import contextmanager

import pytest

from aaexport.runners.browser import WITHOUT_GPU, Browser
from aaexport.runners.loopback import serving
from aaexport.runners.web_runtime import FILES, PACKAGE, PLACES

READY = "document.documentElement.dataset.ready || !document.getElementById('trouble').hidden"
PATIENCE = 60.0  # seconds; none of them is a measurement


def fake_runtime(folder, *, name=PACKAGE, version="1.30.0", without=()):
    """A package whose files hold nothing that runs."""
    (folder / "dist").mkdir(parents=True)
    (folder / "package.json").write_text(json.dumps({"name": name, "version": version}))
    for file in {file for pair in FILES.values() for file in pair} - set(without):
        (folder / "dist" / file).write_text(f"{file}\n")
    return folder


class Page:
    """A visitor: what is clicked, typed, drawn and dropped, and what can be read then."""

    def __init__(self, browser):
        self.browser = browser

    def visit(self, url):
        """The page of a site, once it is ready or says what is wrong."""
        self.browser.open(url)
        self.wait(READY)

    def js(self, expression):
        return self.browser.evaluate(expression)

    def text(self, name):
        return self.js(f"document.getElementById({name!r}).textContent")

    def wait(self, expression, patience=PATIENCE):
        until = time.monotonic() + patience
        while not (found := self.js(expression)):
            assert time.monotonic() < until, f"never {expression}: {self.text('state')} {self.text('trouble')}"
            time.sleep(0.05)
        return found

    def click(self, name):
        self.js(f"document.getElementById({name!r}).click()")

    def press(self, *keys):
        for key in keys:
            told = {"key": key, "code": "Space" if key == " " else key, "text": key if key == " " else ""}
            for kind in ("keyDown", "keyUp"):
                self.browser.call("Input.dispatchKeyEvent", {"type": kind, **told})

    def middle(self, name):
        """(x, y, width, height) of an element, scrolled into sight."""
        self.js(f"document.getElementById({name!r}).scrollIntoView({{block: 'center'}})")
        box = f"document.getElementById({name!r}).getBoundingClientRect()"
        return self.js(f"(box => [box.left, box.top, box.width, box.height])({box})")

    def draw(self, name, points):
        """A stroke through these points, given from 0 to 1."""
        left, top, width, height = self.middle(name)
        places = [(left + x * width, top + y * height) for x, y in points]
        kinds = ["mousePressed", *["mouseMoved"] * (len(places) - 1)]
        for kind, (x, y) in [*zip(kinds, places, strict=True), ("mouseReleased", places[-1])]:
            button = {"button": "left", "buttons": 1, "clickCount": 1}
            self.browser.call("Input.dispatchMouseEvent", {"type": kind, "x": x, "y": y, **button})

    def drop(self, path):
        left, top, width, height = self.middle("pad")
        data = {"items": [], "files": [str(path)], "dragOperationsMask": 1}
        for kind in ("dragEnter", "dragOver", "drop"):
            at = {"x": left + width / 2, "y": top + height / 2}
            self.browser.call("Input.dispatchDragEvent", {"type": kind, "data": data, **at})

    def copy(self, png):
        """Puts a picture on the browser's clipboard."""
        self.browser.call(
            "Browser.grantPermissions", {"permissions": ["clipboardReadWrite", "clipboardSanitizedWrite"]}
        )
        self.browser.call("Emulation.setFocusEmulationEnabled", {"enabled": True})
        self.wait("document.hasFocus()")
        data = base64.b64encode(png).decode()
        blob = f"new Blob([Uint8Array.from(atob('{data}'), sign => sign.charCodeAt(0))], {{type: 'image/png'}})"
        self.js(f"navigator.clipboard.write([new ClipboardItem({{'image/png': {blob}}})])")

    def paste(self):
        """Control and V."""
        key = {"key": "v", "code": "KeyV", "modifiers": 2, "windowsVirtualKeyCode": 86, "commands": ["paste"]}
        for kind in ("rawKeyDown", "keyUp"):
            self.browser.call("Input.dispatchKeyEvent", {"type": kind, **key})

    def shares(self):
        return self.js("[...document.querySelectorAll('#bars meter')].map(meter => meter.value)")

    def complaints(self):
        """What the console said that is no hint."""
        told = [event["params"] for event in self.browser.events if event["method"] == "Log.entryAdded"]
        thrown = [event["params"] for event in self.browser.events if event["method"] == "Runtime.exceptionThrown"]
        return [entry["entry"]["text"] for entry in told if entry["entry"]["level"] == "error"] + thrown

    def asked(self):
        """Every address that was asked for."""
        sent = (event for event in self.browser.events if event["method"] == "Network.requestWillBeSent")
        return [event["params"]["request"]["url"] for event in sent]


@contextmanager
def opened(files, options=WITHOUT_GPU):
    """The page of a site in a browser of its own."""
    with serving(files) as url, Browser(options) as browser:
        page = Page(browser)
        page.visit(url)
        yield page


@contextmanager
def shown(text, width, scheme):
    """A browser that shows a page which needs nothing else, in a window of so many pixels."""
    with serving({"index.html": text.encode()}) as url, Browser() as browser:
        on_screen(browser, width, scheme)
        browser.open(url)
        yield browser


def on_screen(browser, width, scheme):
    """In a window of so many pixels, light or dark."""
    size = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 500}
    browser.call("Emulation.setDeviceMetricsOverride", size)
    browser.call("Emulation.setEmulatedMedia", {"features": [{"name": "prefers-color-scheme", "value": scheme}]})


def axe_violations(browser):
    """The rules of accessibility that the page breaks; skips where axe-core is not installed."""
    script = PLACES[-1].parent / "axe-core" / "axe.min.js"
    if not script.is_file():
        pytest.skip("axe-core is not installed: make web")
    browser.evaluate(f"{script.read_text(encoding='utf-8')};0")
    found = "axe.run(document, {resultTypes: ['violations']}).then(found => found.violations.map(one => one.id))"
    return browser.evaluate(found)
