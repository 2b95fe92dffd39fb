"""The README and the pages in docs."""

import csv
import re
from pathlib import Path

import pytest

import drtf

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
PAGES = [
    path
    for folder in (
        ".",
        "docs",
        "docs/results",
        "docs/benchmarks",
        "tfrecords",
        "benchmarks",
    )
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


def test_changelog_and_citation_have_the_version_of_the_package():
    citation = (ROOT / "CITATION.cff").read_text()
    version, date = re.findall(r"(?m)^(?:version|date-released): (.*)", citation)
    assert version == drtf.__version__
    assert f"\n## {version} ({date})\n" in (ROOT / "CHANGELOG.md").read_text()


def test_troubleshooting_quotes_messages_that_drtf_shows():
    messages = (ROOT / "tests" / "messages.txt").read_text()
    page = (ROOT / "docs" / "troubleshooting.md").read_text()
    quotes = re.findall(r"^\| `([^`]+)` \|", page, re.MULTILINE)
    assert len(quotes) > 10
    for quote in quotes:
        assert quote in messages, quote


def csv_cells(path: Path) -> list[list[str]]:
    with path.open(newline="") as file:
        return list(csv.reader(file))


def tables(page: Path) -> list[list[list[str]]]:
    """Return the cells of each table of a page, without the line below the header."""
    blocks = re.findall(r"(?:^\|.*\n)+", page.read_text(), re.MULTILINE)
    plain = [re.sub(r"\*\*|`", "", block).splitlines() for block in blocks]
    cells = [[x[1:-1].split("|") for x in rows[:1] + rows[2:]] for rows in plain]
    return [[[cell.strip() for cell in row] for row in table] for table in cells]


@pytest.mark.parametrize(
    "page", sorted(DOCS.glob("benchmarks/*.md")), ids=lambda page: page.stem
)
def test_each_table_of_a_benchmark_is_a_csv_file(page):
    linked = re.findall(r"\]\(([^)]*\.csv)\)", page.read_text())
    files = [csv_cells(page.parent / name) for name in linked]
    assert files == tables(page)


def test_each_csv_file_has_a_page():
    pages = "".join(page.read_text() for page in DOCS.glob("*/*.md"))
    for path in DOCS.glob("*/*.csv"):
        assert f"({path.name})" in pages, path


def figures(text: str) -> list[tuple[float, float]]:
    """Return each decimal and each number above 100, with half of its last digit."""
    numbers = re.findall(r"\d[\d,]*\.\d+|\d[\d,]{2,}", text)
    digits = [number.replace(",", "") for number in numbers]
    return [(float(x), 0.5 * 10 ** -len(x.partition(".")[2])) for x in digits]


@pytest.mark.parametrize("name", ["README.md", "docs/results.md", "docs/benchmarks.md"])
def test_the_figures_of_a_summary_are_those_of_its_pages(name):
    files = DOCS.glob("*/*.csv")
    cells = "\n".join(cell for file in files for row in csv_cells(file) for cell in row)
    measured = [value for value, _ in figures(cells)]
    for table in tables(ROOT / name):
        for value, half in figures("\n".join(cell for row in table for cell in row)):
            assert any(abs(value - x) <= half for x in measured), value
