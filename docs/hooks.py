"""Add the pages that stand outside docs/ to the web site, and link to them there."""

import posixpath
import re
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).parents[1]
# The path in the repository, and the page of the site.
PAGES = {
    "tfrecords/README.md": "format.md",
    "CONTRIBUTING.md": "contributing.md",
    "CHANGELOG.md": "changelog.md",
}


def on_files(files: Files, *, config: MkDocsConfig) -> Files:
    """Add the pages from outside docs/."""
    for source, page in PAGES.items():
        files.append(File.generated(config, page, abs_src_path=str(ROOT / source)))
    return files


def on_page_markdown(
    markdown: str, *, page: Page, config: MkDocsConfig, files: Files
) -> str:
    """Turn each link to a file of the repository into one to its page."""
    place = page.file.src_uri
    sources = {name: source for source, name in PAGES.items()}
    source = sources.get(place, f"docs/{place}")

    def link(match: re.Match[str]) -> str:
        target, anchor = match[1], match[2] or ""
        path = posixpath.normpath(posixpath.join(posixpath.dirname(source), target))
        page_of = PAGES.get(path, path.removeprefix("docs/"))
        if not (path in PAGES or path.startswith("docs/")):
            return match[0]
        return f"]({posixpath.relpath(page_of, posixpath.dirname(place))}{anchor})"

    return re.sub(r"\]\((?!\w+:)([^)#\s]+)(#[^)\s]*)?\)", link, markdown)
