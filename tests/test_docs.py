"""The README and the pages in docs."""

import csv
import re
from pathlib import Path

import pandas as pd
import pytest

import drtf

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
# The columns of a CSV file of several runs that hold results.
MEASURES = (
    "roc_auc_1",
    "roc_auc_2",
    "brier_score",
    "log_loss",
    "expected_calibration_error",
)
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


def test_each_csv_file_has_a_page():
    pages = "".join(page.read_text() for page in DOCS.glob("*/*.md"))
    for path in DOCS.glob("*/*.csv"):
        assert f"({path.name})" in pages, path


def linked_files(page: Path) -> list[Path]:
    """Return the CSV files that a page links to, each once."""
    names = re.findall(r"\]\(([^)]*\.csv)\)", page.read_text())
    return [page.parent / name for name in dict.fromkeys(names)]


def figures(text: str) -> list[tuple[float, float]]:
    """Return each decimal and each number above 100, with half of its last digit."""
    numbers = re.findall(r"-?\d[\d,]*\.\d+(?:e-\d+)?|-?\d[\d,]{2,}", text)
    digits = [number.replace(",", "") for number in numbers]
    decimals = [len(x.partition("e")[0].partition(".")[2]) for x in digits]
    exponents = [int(x.partition("e")[2] or 0) for x in digits]
    halves = [0.5 * 10 ** (e - d) for e, d in zip(exponents, decimals, strict=True)]
    return [(float(x), half) for x, half in zip(digits, halves, strict=True)]


def measured_rows(path: Path) -> list[list[float]]:
    """Return the figures of each row of a CSV file.

    If its rows are of several runs, the means over the runs follow, with the lowest and
    the highest.
    """
    cells = csv_cells(path)
    if "run" in cells[0]:
        table = pd.read_csv(path)
        groups = table.groupby([x for x in table if x not in ("run", *MEASURES)])
        means = groups[[x for x in table if x in MEASURES]].agg(["mean", "min", "max"])
        rows = [list(row) for row in means.to_numpy()]
    else:
        rows = []
    return [[x for x, _ in figures("\n".join(row))] for row in cells] + rows


def has_figures(row: list[float], text: str) -> bool:
    """Return whether a row has all figures of a text, perhaps with more digits."""
    return all(
        any(abs(measured - value) <= 1.001 * half for measured in row)
        for value, half in figures(text)
    )


def cells_without_a_row(
    table: list[list[str]], measured: list[list[float]]
) -> list[str]:
    """Return the parts of cells whose figures are not together in a measured row."""
    cells = [cell for row in table[1:] for cell in row[1:]]
    parts = [part for cell in cells for part in re.split("; | and ", cell)]
    return [
        part for part in parts if not any(has_figures(row, part) for row in measured)
    ]


@pytest.mark.parametrize(
    "page", sorted(DOCS.glob("benchmarks/*.md")), ids=lambda page: page.stem
)
def test_each_table_of_a_benchmark_is_a_csv_file(page):
    assert [csv_cells(path) for path in linked_files(page)] == tables(page)


@pytest.mark.parametrize(
    "page", sorted(DOCS.glob("results/*.md")), ids=lambda page: page.stem
)
def test_each_table_of_a_result_is_a_csv_file_or_has_its_figures(page):
    paths = linked_files(page)
    files = [csv_cells(path) for path in paths]
    measured = [row for path in paths for row in measured_rows(path)]
    for table in tables(page):
        if table[0] in [cells[0] for cells in files]:
            assert table in files
        else:
            assert not cells_without_a_row(table, measured)


@pytest.mark.parametrize("name", ["README.md", "docs/results.md", "docs/benchmarks.md"])
def test_the_figures_of_a_summary_are_those_of_its_pages(name):
    measured = [row for path in DOCS.glob("*/*.csv") for row in measured_rows(path)]
    for table in tables(ROOT / name):
        assert not cells_without_a_row(table, measured)
