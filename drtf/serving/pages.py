"""The web pages: each is one file that loads nothing from anywhere."""

import base64
import hashlib
import json
from dataclasses import dataclass
from importlib.resources import files

from drtf.clinic.patient_texts import LANGUAGES

START_PAGE, API_PAGE = "start", "api"
FOLDER = "page"
STYLE_FILE = "style.css"
STYLE_MARK, SCRIPT_MARK = "/* style */", "/* script */"
FLAGS_MARK = "/* flags */ {}"


@dataclass(frozen=True)
class Page:
    """A page.

    Attributes:
        html: The page, with its style and script.
        policy: Its content security policy: only this style and this script run, and
            they talk only to the service.
    """

    html: str
    policy: str


def load_page(name: str) -> Page:
    """Load a page and put its style and script into it.

    Args:
        name: `start` or `api`.
    """
    folder = files("drtf.serving") / FOLDER
    html, style, script = (
        (folder / file).read_text("utf-8")
        for file in (f"{name}.html", STYLE_FILE, f"{name}.js")
    )
    script = script.replace(FLAGS_MARK, json.dumps(_flag_texts(), ensure_ascii=False))
    policy = (
        "default-src 'none'; img-src data: blob:; connect-src 'self'; "
        f"style-src {_hash_source(style)}; script-src {_hash_source(script)}; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    )
    return Page(html.replace(STYLE_MARK, style).replace(SCRIPT_MARK, script), policy)


def _flag_texts() -> dict[str, dict[str, dict[str, str]]]:
    """Return the words for each flag, by language and column."""
    return {
        language: {"flags": texts.flags, "probabilityFlags": texts.doubts}
        for language, texts in LANGUAGES.items()
    }


def _hash_source(text: str) -> str:
    digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
    return f"'sha256-{digest}'"
