"""Run all measurements that depend on the GPU, and write their results as tables."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path

from drtf.bench.gpu_parts import FULL, PARTS, QUICK, Part, Row
from drtf.errors import DrtfError
from drtf.files import check_absent, encode_json, write_atomic
from drtf.progress import progress

JSON_FILE, MARKDOWN_FILE, LOG_FILE = "gpu.json", "gpu.md", "gpu.log"
CODE = "from drtf.bench.gpu import run_part; run_part(*__import__('sys').argv[1:])"
USUAL_MINUTES = 8.0


@dataclass
class PartResult:
    """The result of a part.

    Attributes:
        name: The part's name.
        title: The title of its table.
        rows: The rows that it measured in its time.
        seconds: How long it took.
        failure: Why it ended early; empty if it did not.
    """

    name: str
    title: str
    rows: list[Row] = field(default_factory=list)
    seconds: float = 0.0
    failure: str = ""


def bench_gpu(
    out: Path,
    *,
    work: Path,
    minutes: float,
    quick: bool,
    names: Sequence[str],
    overwrite: bool = False,
) -> list[PartResult]:
    """Measure each part in turn, and write the results after each of them.

    A part that fails or reaches its limit keeps the rows that it has measured, and does
    not stop the others.

    Args:
        out: Folder for the results: JSON, Markdown, and a log of each part's output.
        work: Folder for datasets, photographs and runs.
        minutes: Limit for everything. The parts that come after it are not run, and the
            limits of the others are in proportion to it.
        quick: Measure tiny networks, to see whether the command works.
        names: Parts to measure; all if empty.
        overwrite: Whether to replace earlier results in `out`.

    Raises:
        DrtfError: If there is no part with one of the names, or `out` has results.
    """
    known = [part.name for part in PARTS]
    if unknown := set(names) - set(known):
        raise DrtfError(
            f"there is no part {', '.join(sorted(unknown))}; the parts are "
            f"{', '.join(known)}"
        )
    check_absent(out / JSON_FILE, out / MARKDOWN_FILE, overwrite=overwrite)
    out.mkdir(parents=True, exist_ok=True)
    parts = [part for part in PARTS if not names or part.name in names]
    end = time.monotonic() + 60 * minutes
    results: list[PartResult] = []
    with progress("Measuring", len(parts)) as advance:
        for part in parts:
            limit = part.seconds * minutes / USUAL_MINUTES
            limit = min(limit, end - time.monotonic())
            results.append(_run(part, out, work, limit, quick))
            write_atomic(out / JSON_FILE, encode_json([*map(asdict, results)]))
            write_atomic(out / MARKDOWN_FILE, format_results(results))
            advance(part.name)
    return results


def _run(part: Part, out: Path, work: Path, limit: float, quick: bool) -> PartResult:
    result = PartResult(part.name, part.title)
    if limit <= 0:
        result.failure = "not run: the time was up"
        return result
    rows = work / f"{part.name}.jsonl"
    words = (part.name, work, rows, "quick" if quick else "full")
    start = time.monotonic()
    with (out / LOG_FILE).open("ab") as log:
        log.write(f"== {part.name}\n".encode())
        log.flush()
        process = subprocess.Popen(
            [sys.executable, "-P", "-c", CODE, *map(str, words)],
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
        try:
            code = process.wait(limit)
            if code:
                result.failure = f"{_last_line(out / LOG_FILE)} (exit code {code})"
        except subprocess.TimeoutExpired:
            result.failure = f"stopped at its limit of {limit:.0f} s"
        finally:
            # Its workers too, which would take time from the next part.
            _kill_group(process)
    result.seconds = time.monotonic() - start
    if rows.exists():
        result.rows = [json.loads(line) for line in rows.read_text().splitlines()]
    return result


def _kill_group(process: "subprocess.Popen[bytes]") -> None:
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def _last_line(path: Path) -> str:
    lines = path.read_text(errors="replace").strip().splitlines()
    return lines[-1][:200]


def run_part(name: str, work: str, rows: str, scale: str) -> None:
    """Measure a part in this process, and append each row to a file.

    Args:
        name: The part's name.
        work: Folder for its data, which other parts use as well.
        rows: The file, with one JSON object per line.
        scale: "quick" or "full".
    """
    (part,) = (part for part in PARTS if part.name == name)
    with Path(rows).open("w") as file:
        for row in part.measure(Path(work), QUICK if scale == "quick" else FULL):
            print(json.dumps(row), file=file, flush=True)


def format_results(results: Iterable[PartResult]) -> str:
    """Return a Markdown table for each part."""
    blocks = []
    for result in results:
        blocks.append(f"## {result.title}")
        if result.rows:
            columns = list(dict.fromkeys(name for row in result.rows for name in row))
            lines = [columns, ["---"] * len(columns)]
            lines += [
                [_format_cell(row.get(name, "")) for name in columns]
                for row in result.rows
            ]
            blocks.append("\n".join(f"| {' | '.join(line)} |" for line in lines))
        took = f"Took {result.seconds:.0f} s"
        blocks.append(f"{took}; {result.failure}." if result.failure else f"{took}.")
    return "\n\n".join(blocks) + "\n"


def _format_cell(value: object) -> str:
    if isinstance(value, float):
        text = f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"
    else:
        text = str(value)
    return text.replace("|", "/").replace("\n", " ")
