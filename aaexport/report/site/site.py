"""(model's name, digest of site.json) → the page that runs the model; what never changes is in files beside this."""

from __future__ import annotations

import re
from importlib.resources import files

from aaexport.deployment.web import PAGE, POLICY, SCRIPT, STYLE, integrity
from aaexport.report.page.markup import escape
from aaexport.report.page.page import style
from aaexport.serving.repository import Files

PLACE = re.compile(r"\{\{(\w+)\}\}")


def page_files(name: str, description: str, about_sha256: str) -> Files:
    """index.html, site.js and site.css; the page holds the script, the style and site.json to their digests."""
    script = _read("site.js")
    sheet = f"{style()}\n{_read('site.css')}"
    filled = {
        "name": name,
        "description": description,
        "policy": POLICY,
        "about_sha256": about_sha256,
        "script_integrity": integrity(script.encode()),
        "style_integrity": integrity(sheet.encode()),
    }
    # All in one go: what somebody wrote is filled in, and not looked through for places to fill.
    page = PLACE.sub(lambda place: escape(filled[place[1]]), _read("index.html"))
    return {PAGE: page, SCRIPT: script, STYLE: sheet}


def _read(name: str) -> str:
    return files("aaexport.report.site").joinpath(name).read_text(encoding="utf-8")
