"""The report: one HTML page that needs nothing beside it."""

import base64
import html
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from drtf.files import write_atomic

STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; max-width: 61rem; margin: 2rem auto;
       padding: 0 1rem; color: #222; }
table { border-collapse: collapse; margin: 1rem 0; }
th, td { text-align: left; padding: .2rem 1.2rem .2rem 0; border-bottom: 1px solid #ddd;
         vertical-align: top; overflow-wrap: anywhere; }
td.number { font-variant-numeric: tabular-nums; white-space: nowrap; }
.note { background: #fff4d6; border-left: 4px solid #d55e00; padding: .5rem 1rem; }
.figures { display: flex; flex-wrap: wrap; gap: 1rem; align-items: flex-start; }
img { max-width: min(100%, 29.5rem); height: auto; }
@media print { body { margin: 0; } img { break-inside: avoid; } }
"""


def write_report(
    path: Path,
    *,
    title: str,
    facts: Mapping[str, str],
    tables: Mapping[str, tuple[Sequence[str], Iterable[Sequence[str]]]],
    notes: Iterable[str],
    figures: Iterable[Path],
) -> None:
    """Write a page of tables, figures and where they come from.

    Args:
        path: of the HTML file.
        title: its heading.
        facts: what was judged, by name.
        tables: by title, the columns and the rows, as text.
        notes: warnings, shown first.
        figures: PNGs to embed.
    """
    body = [f"<h1>{html.escape(title)}</h1>"]
    body += [f'<p class="note">{html.escape(note)}</p>' for note in notes]
    for heading, (columns, rows) in tables.items():
        body += [f"<h2>{html.escape(heading)}</h2>", "<table><tr>"]
        body += [f"<th>{html.escape(column)}</th>" for column in columns]
        body += ["</tr>"]
        for name, *cells in rows:
            body += [f"<tr><td>{html.escape(name)}</td>"]
            body += [f'<td class="number">{html.escape(cell)}</td>' for cell in cells]
            body += ["</tr>"]
        body += ["</table>"]
    body += [
        "<p>Intervals of 95 %: bootstrap over patients, and exact ones where no "
        "mistake was made. A patient has the grade and the score of the worse eye.</p>"
    ]
    body += ['<div class="figures">', *map(_embed, figures), "</div>"]
    body += ["<h2>What was judged</h2>", "<table>"]
    body += [
        f"<tr><th>{html.escape(name)}</th><td>{html.escape(text)}</td></tr>"
        for name, text in facts.items()
    ]
    body += ["</table>", "<p>For research; not a medical device.</p>"]
    page = (
        '<!doctype html><html lang="en"><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{html.escape(title)}</title><style>{STYLE}</style>"
        f"<body>{''.join(body)}</body></html>\n"
    )
    write_atomic(path, page)


def _embed(path: Path) -> str:
    data = base64.b64encode(path.read_bytes()).decode()
    name = html.escape(path.stem.replace("_", " "))
    return f'<img alt="{name}" src="data:image/png;base64,{data}">'
