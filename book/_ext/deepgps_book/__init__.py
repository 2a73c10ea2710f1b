"""
What this book adds to Sphinx: pages written from the notebooks, the library and the commands.

Directives: ``chapter-map``, ``run-times``, ``chapter-goals``, ``library``, ``commands``. After a
build: notebooks to download and slides. On every page: no script that would call a network.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.errors import ExtensionError
from sphinx.util import logging

from . import directives
from .downloads import write_downloads
from .slides import write_slides

LOGGER = logging.getLogger(__name__)
#: Browsers refuse these, with an error, on a page opened from a disk; the fonts load without.
FONT_PRELOAD = re.compile(r'<link rel="preload" as="font"[^>]*>')
EMPTY_HEADER = re.compile(r"<th(\s[^>]*)?>\s*(?:<p>\s*</p>)?\s*</th>")
CHAPTER = "book/executed/"


def repository(app: Sphinx) -> str:
    """Return the address of the repository, if one is configured."""
    return str(app.config.html_theme_options.get("repository_url") or "").rstrip("/")


def launch_buttons(address: str, stem: str) -> list[dict[str, str]]:
    """Return buttons that open a chapter elsewhere; none without an address on GitHub."""
    match = re.fullmatch(r"https://github\.com/([\w.-]+)/([\w.-]+?)(?:\.git)?", address)
    if not match:
        return []
    place = f"{match[1]}/{match[2]}"
    # the branch `launch` holds the notebooks with a set-up cell: see .github/workflows/pages.yml
    return [
        {
            "type": "link", "text": name, "icon": icon, "tooltip": f"Run this chapter on {name}",
            "label": f"launch-{name.lower()}", "url": url,
        }
        for name, icon, url in (
            ("Colab", "fas fa-play",
             f"https://colab.research.google.com/github/{place}/blob/launch/{stem}.ipynb"),
            ("Binder", "fas fa-rocket",
             f"https://mybinder.org/v2/gh/{place}/HEAD?filepath=notebooks/{stem}.ipynb"),
        )
    ]  # fmt: skip


def shape_page(
    app: Sphinx, pagename: str, templatename: str, context: dict[str, Any], doctree: Any
) -> None:
    """Drop scripts that could call a network, name empty cells as what they are, add buttons."""
    context["script_files"] = [
        script for script in context.get("script_files", [])
        if "thebe" not in str(getattr(script, "filename", script)).lower()
        and "thebe" not in str(getattr(script, "attributes", {}).get("body", "")).lower()
    ]  # fmt: skip
    if "body" in context:
        body = EMPTY_HEADER.sub("<td></td>", context["body"])
        # a role that is deprecated, in a list whose items it hides from a screen reader
        body = body.replace(' role="doc-biblioentry"', "")
        context["body"] = body.replace('role="list" class="citation-list"', 'class="citation-list"')
    context["deepgps_site"] = str(app.config.html_baseurl or "").rstrip("/")
    if not pagename.startswith(CHAPTER):
        return
    stem = pagename.removeprefix(CHAPTER)
    above = "../" * pagename.count("/")
    added = [
        ("without solutions", "fas fa-pencil", f"{above}downloads/{stem}-exercises.ipynb",
         "Notebook without outputs and solutions"),
        ("slides", "fas fa-display", f"{above}slides/{stem}.html", "Slides of this chapter"),
    ]  # fmt: skip
    for group in context.get("header_buttons", []):
        if group.get("label") == "download-buttons":
            group["buttons"] += [
                {"type": "link", "text": text, "icon": icon, "url": url, "tooltip": tip,
                 "label": f"download-{icon.split('-')[1]}"} for text, icon, url, tip in added
            ]  # fmt: skip
    buttons = launch_buttons(repository(app), stem)
    if buttons:
        context.setdefault("header_buttons", []).append(
            {"type": "group", "tooltip": "Run it elsewhere", "icon": "fas fa-rocket",
             "buttons": buttons, "label": "launch-buttons"}
        )  # fmt: skip


def drop_thebe(app: Sphinx, doctree: nodes.document, docname: str) -> None:
    """Remove the settings of a live kernel that no page of this book starts."""
    for node in list(doctree.findall(nodes.raw)):
        if "text/x-thebe-config" in node.astext():
            node.parent.remove(node)


def write_extras(app: Sphinx, error: Exception | None) -> None:
    """Write downloads and slides beside the pages, and drop what no page uses."""
    if error is not None or app.builder.name != "html":
        return
    for page in Path(app.outdir).rglob("*.html"):
        text = page.read_text(encoding="utf-8")
        if FONT_PRELOAD.search(text):
            page.write_text(FONT_PRELOAD.sub("", text), encoding="utf-8")
    out, executed = Path(app.outdir), Path(app.srcdir) / "book" / "executed"
    found = sorted(out.glob("_static/**/tex-chtml.js"))
    math = f"../{found[0].relative_to(out).as_posix()}" if found else ""
    try:
        write_downloads(executed, out / "downloads", repository(app))
        write_slides(executed, out / "slides", "../_static", math)
    except (OSError, ValueError, KeyError) as problem:
        raise ExtensionError(f"downloads and slides: {problem}") from problem


def setup(app: Sphinx) -> dict[str, Any]:
    """Register directives and handlers."""
    directives.register(app)
    app.connect("html-page-context", shape_page, priority=900)
    app.connect("doctree-resolved", drop_thebe, priority=900)
    app.connect("build-finished", write_extras)
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
