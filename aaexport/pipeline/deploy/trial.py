"""A site's files → what a headless browser finds, in which the page itself is opened and asked to prove itself."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from aaexport.deployment.artefact import Check, found
from aaexport.errors import ProviderError, RunnerError
from aaexport.runners.browser import Browser, find_browser
from aaexport.runners.loopback import serving
from aaexport.runners.web import LABELS, LOAD_TIMEOUT, RUN_TIMEOUT
from aaexport.serving.repository import Files

BUTTON = "the page's own button does"
UNSEEN = f"no browser was at hand to try it in: {BUTTON}"
# The page says itself when it is ready, what is wrong, and what came of its proof.
TROUBLE = "(box => box.hidden ? '' : box.textContent)(document.getElementById('trouble'))"
BEGUN = "document.documentElement.dataset.ready"
PROVED = "document.documentElement.dataset.proof"
WAIT = "(async () => { while (!(%s) && !%s) await new Promise(done => setTimeout(done, 20)); return %s; })()"
RIGHT = "right"
NAMED = 3  # complaints of its console


def tried_in_browser(files: Files, images: int) -> tuple[tuple[Check, ...], tuple[str, ...]]:
    """The page with its golden vectors, so many images, asked in a headless browser; else a note why nobody did."""
    if find_browser() is None:
        return (), (UNSEEN,)
    try:
        wrong = list(_faults({name: _served(content) for name, content in files.items()}))
    except ProviderError as error:
        return (), (f"no browser could try it: {error}; {BUTTON}",)
    return (found("browser", wrong, f"{images} golden images right in {LABELS['wasm']}"),), ()


def _faults(files: dict[str, Path | bytes]) -> Iterator[str]:
    """What a visitor would see go wrong, or the console would tell. ProviderError if the browser does not start."""
    with serving(files) as url, Browser() as browser:
        try:
            browser.open(url)
            trouble = browser.evaluate(WAIT % (BEGUN, TROUBLE, TROUBLE), timeout=LOAD_TIMEOUT)
            if not trouble:
                browser.evaluate("document.getElementById('prove').click()")
                trouble = browser.evaluate(WAIT % (PROVED, TROUBLE, TROUBLE), timeout=RUN_TIMEOUT)
            proof = browser.evaluate(PROVED)
            if trouble:
                yield trouble
            elif proof != RIGHT:
                yield browser.evaluate("document.getElementById('verdict').textContent")
        except RunnerError as error:
            yield str(error)
        yield from list(_complaints(browser.events))[:NAMED]


def _complaints(events: list[dict[str, Any]]) -> Iterator[str]:
    """What the console told as an error."""
    for event in events:
        told = event["params"]
        if event["method"] == "Runtime.exceptionThrown":
            thrown = told["exceptionDetails"]
            text = thrown.get("exception", {}).get("description") or thrown.get("text", "an exception")
            yield f"the page's script: {text.splitlines()[0]}"
        elif event["method"] == "Log.entryAdded" and told["entry"]["level"] == "error":
            yield f"the browser: {told['entry']['text']}"


def _served(content: str | bytes | Path) -> Path | bytes:
    return content.encode() if isinstance(content, str) else content
