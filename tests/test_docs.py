"""The README and the pages in docs."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGES = [
    path
    for folder in (".", "docs", "docs/results", "tfrecords", "benchmarks")
    for path in sorted((ROOT / folder).glob("*.md"))
]


def anchors(page: Path) -> set[str]:
    """Return the anchors that GitHub and MkDocs make of a page's headings."""
    headings = re.findall(r"^#+ (.*)", page.read_text(), re.MULTILINE)
    words = (re.sub(r"[^\w\- ]", "", heading.lower()) for heading in headings)
    return {text.replace(" ", "-") for text in words}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_to_a_file_and_a_heading(page):
    links = re.findall(r"\]\((?!\w+:)([^)#\s]*)(?:#([^)\s]*))?\)", page.read_text())
    for target, anchor in links:
        path = page.parent / target if target else page
        assert path.exists(), target
        if anchor:
            assert anchor in anchors(path), (target, anchor)


def test_the_readme_is_short():
    assert len((ROOT / "README.md").read_text().splitlines()) <= 130


def test_troubleshooting_quotes_messages_that_drtf_shows():
    messages = (ROOT / "tests" / "messages.txt").read_text()
    page = (ROOT / "docs" / "troubleshooting.md").read_text()
    quotes = re.findall(r"^\| `([^`]+)` \|", page, re.MULTILINE)
    assert len(quotes) > 10
    for quote in quotes:
        assert quote in messages, quote
