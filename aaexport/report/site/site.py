"""(model's name, digest of site.json) → the page that runs the model; what never changes is in files beside this."""

from __future__ import annotations

from importlib.resources import files

from aaexport.deployment.web import PAGE, POLICY, SCRIPT, STYLE, integrity
from aaexport.report.page.markup import escape
from aaexport.report.page.page import style
from aaexport.serving.repository import Files


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
    page = _read("index.html")
    for key, value in filled.items():
        page = page.replace(f"{{{{{key}}}}}", escape(value))
    return {PAGE: page, SCRIPT: script, STYLE: sheet}


def _read(name: str) -> str:
    return files("aaexport.report.site").joinpath(name).read_text(encoding="utf-8")
