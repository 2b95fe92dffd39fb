"""Draw the figures of the pages from the CSV files of the pages.

python benchmarks/figures.py
"""

import csv
import re
from pathlib import Path

from drtf.figures import plot_estimates

DOCS = Path(__file__).parents[1] / "docs"
READERS = {
    "FFCV 1.0.2": "FFCV, without checksums",
    "drtf": "drtf",
    "float32 arrays in memory (the notebook)": "arrays in memory (the notebook)",
    "TFRecordDataset, the best of 8 settings": "TFRecordDataset at its best",
    "webdataset 1.0.2": "webdataset",
    "grain on ArrayRecord 0.2.18": "grain on ArrayRecord",
    "TFDS 4.9.10": "TFDS",
}


def main() -> None:
    """Draw both figures."""
    rates = {row["reader"]: row["images/s"] for row in load_rows("benchmarks/reading")}
    plot_estimates(
        DOCS / "benchmarks.png",
        list(READERS.values()),
        {"images": [parse_estimate(rates[name], unit=1000) for name in READERS]},
        title="Thousand images read per second: median, lowest and highest",
    )
    configs = load_rows("results/ladder")
    tasks = ("grade >= 1", "grade >= 2")
    plot_estimates(
        DOCS / "ladder.png",
        [row["config"] for row in configs],
        {
            task: [parse_estimate(row[f"ROC AUC, {task}"]) for row in configs]
            for task in tasks
        },
        title="ROC AUC on the test split: mean over seeds, 95 % interval",
    )


def load_rows(table: str) -> list[dict[str, str]]:
    """Load the CSV file of a table in docs."""
    with (DOCS / f"{table}.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def parse_estimate(cell: str, *, unit: float = 1) -> tuple[float, float, float]:
    """Parse a cell such as `41,207 (38,306 to 48,483)`, in a unit."""
    numbers = re.findall(r"\d[\d,.]*", cell)
    value, low, high = (float(number.replace(",", "")) / unit for number in numbers)
    return value, low, high


if __name__ == "__main__":
    main()
