"""A self-contained HTML page for a screen, a phone or paper."""

import base64
import html
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from drtf.files import write_atomic

STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; max-width: 61rem; margin: 2rem auto;
       padding: 0 1rem; color: #222; }
table { border-collapse: collapse; }
/* A shadow at the edge where a table goes on, because phones hide scroll bars. */
.scroll { overflow-x: auto; margin: 1rem 0; background:
  linear-gradient(90deg, #fff 1rem, transparent) left / 2rem 100% no-repeat local,
  linear-gradient(-90deg, #fff 1rem, transparent) right / 2rem 100% no-repeat local,
  linear-gradient(90deg, #999, transparent) left / .7rem 100% no-repeat scroll,
  linear-gradient(-90deg, #999, transparent) right / .7rem 100% no-repeat scroll; }
th, td { text-align: left; padding: .2rem 1.2rem .2rem 0; border-bottom: 1px solid #ddd;
         vertical-align: top; }
td.number { font-variant-numeric: tabular-nums; white-space: nowrap; }
.facts td { overflow-wrap: anywhere; }
.subtitle { color: #555; }
.headline { display: flex; flex-wrap: wrap; gap: 1rem 3rem; margin: 1.5rem 0; }
.headline div { display: flex; flex-direction: column; }
.headline b { font-size: 2.2rem; line-height: 1.2; font-weight: 600; }
.headline small { color: #555; }
.note { background: #fff4d6; border-left: 4px solid #d55e00; padding: .5rem 1rem; }
.figures { display: flex; flex-wrap: wrap; gap: 1rem; align-items: flex-start; }
.figures img { max-width: min(100%, 29.5rem); }
.wide img { min-width: min(100%, 44rem); }
img { max-width: 100%; height: auto; }
pre { white-space: pre-wrap; overflow-wrap: anywhere; font-size: .85rem; }
@media screen and (max-width: 40rem) {
  body { padding: 0 .6rem; } table { font-size: .8rem; }
  th, td { padding-right: .6rem; }
  .wide img { min-width: 44rem; max-width: none; }
  .wide::before { content: "Scroll sideways to see all"; display: block;
                  position: sticky; left: 0; color: #555; font-size: .8rem; }
}
@media print {
  body { margin: 0; max-width: none; font: 9.5pt/1.35 system-ui, sans-serif; }
  img, tr, .note { break-inside: avoid; } h2 { break-after: avoid; }
  th, td { padding-right: .6rem; } td.number { white-space: normal; }
  .scroll { overflow: visible; background: none; } .figures { gap: .5rem; }
  .figures img { max-width: 32%; } .wide img { max-height: 11cm; }
  .lead { break-after: avoid; } pre { columns: 3; font-size: 7pt; }
  details::details-content { content-visibility: visible; block-size: auto; }
}
"""


def write_page(
    path: Path, *, title: str, subtitle: str, sections: Iterable[str]
) -> None:
    """Write a page of sections, which the other functions format."""
    page = (
        '<!doctype html><html lang="en"><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{html.escape(title)}</title><style>{STYLE}</style>"
        f"<body><h1>{html.escape(title)}</h1>"
        f'<p class="subtitle">{html.escape(subtitle)}</p>'
        f"{''.join(sections)}</body></html>\n"
    )
    write_atomic(path, page)


def format_headline(figures: Iterable[tuple[str, str, str]]) -> str:
    """Format a few values in large type, each with a name and a small line below."""
    cells = "".join(
        f"<div><small>{html.escape(name)}</small><b>{html.escape(value)}</b>"
        f"<small>{html.escape(below)}</small></div>"
        for name, value, below in figures
    )
    return f'<div class="headline">{cells}</div>'


def format_notes(notes: Iterable[str]) -> str:
    """Format highlighted notes."""
    return "".join(f'<p class="note">{html.escape(note)}</p>' for note in notes)


def format_text(heading: str, *paragraphs: str) -> str:
    """Format paragraphs under a heading; printing keeps them with the next section."""
    return _head(heading) + "".join(
        f'<p class="lead">{html.escape(text)}</p>' for text in paragraphs
    )


def format_table(
    heading: str, columns: Sequence[str], rows: Iterable[Sequence[str]]
) -> str:
    """Format a table whose first column names the rows."""
    head = "".join(f"<th>{html.escape(column)}</th>" for column in columns)
    body = "".join(
        f"<tr><td>{html.escape(name)}</td>"
        + "".join(f'<td class="number">{html.escape(cell)}</td>' for cell in cells)
        + "</tr>"
        for name, *cells in rows
    )
    # A table that is printed on several sheets has its header on each.
    table = f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"
    return f'{_head(heading)}<div class="scroll">{table}</div>'


def format_facts(heading: str, facts: Mapping[str, str]) -> str:
    """Format a table of names and texts."""
    rows = "".join(
        f"<tr><th>{html.escape(name)}</th><td>{html.escape(text)}</td></tr>"
        for name, text in facts.items()
    )
    return f'{_head(heading)}<table class="facts">{rows}</table>'


def format_details(heading: str, text: str) -> str:
    """Format a long text that is collapsed until it is opened."""
    return (
        f"<details><summary>{html.escape(heading)}</summary>"
        f"<pre>{html.escape(text)}</pre></details>"
    )


def format_figures(heading: str, paths: Iterable[Path], *, wide: bool = False) -> str:
    """Embed PNG figures, side by side if they fit and are not wide."""
    images = "".join(map(_embed, paths))
    kind = "scroll wide" if wide else "figures"
    return f'{_head(heading)}<div class="{kind}">{images}</div>'


def _head(heading: str) -> str:
    return f"<h2>{html.escape(heading)}</h2>" if heading else ""


def _embed(path: Path) -> str:
    data = base64.b64encode(path.read_bytes()).decode()
    name = html.escape(path.stem.replace("_", " "))
    return f'<img alt="{name}" src="data:image/png;base64,{data}">'
