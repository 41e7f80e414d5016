"""A page in one file, and its tables (pure)."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

_STYLE = """
:root{color-scheme:light dark;--ink:#1b2430;--soft:#5b6675;--line:#e1e5ea;--main:#0b6bcb;--other:#c2611f;--paper:#fff;
--band:#f4f7fa}
@media(prefers-color-scheme:dark){:root{--ink:#e8ecf1;--soft:#a3adba;--line:#2f3844;--main:#62aef5;--other:#f0a06a;
--paper:#161b22;--band:#1e252e}}
*{box-sizing:border-box}
body{font:15px/1.5 system-ui,sans-serif;color:var(--ink);background:var(--paper);margin:2.5rem auto;max-width:74rem;
padding:0 1.25rem}h1{font-size:1.6rem;margin:0 0 .5rem}h2{font-size:1.15rem;margin:2.5rem 0 .4rem}
p{color:var(--soft);margin:.2rem 0 .7rem;max-width:48rem}p strong{color:var(--ink)}
.wide{overflow-x:auto;margin-bottom:1rem}table{border-collapse:collapse;font-variant-numeric:tabular-nums}
th,td{padding:.3rem .8rem .3rem 0;text-align:right;border-bottom:1px solid var(--line);white-space:nowrap;
vertical-align:top}
th:first-child,td:first-child{text-align:left}th{color:var(--soft);font-weight:600}
tr.best td{font-weight:650;background:var(--band)}td small{display:block;color:var(--soft);font-weight:400;
font-size:.78rem}
.charts{display:grid;grid-template-columns:repeat(auto-fit,minmax(22rem,1fr));gap:2rem 2.5rem}
figure{margin:0}figcaption,.legend{color:var(--soft);font-size:.85rem}.legend span{margin-right:1rem}
.legend i{display:inline-block;width:1rem;height:.2rem;margin-right:.35rem;vertical-align:middle;background:var(--main)}
.legend i.other{background:var(--other)}.legend i.soft{background:var(--soft)}.legend i.faint{background:var(--main);
opacity:.35}
svg{width:100%;height:auto;display:block}svg text{fill:var(--soft);font:12px system-ui,sans-serif}
.grid{stroke:var(--line);fill:none}.line{fill:none;stroke:var(--main);stroke-width:2}.dot,rect{fill:var(--main)}
.line.other{stroke:var(--other)}.dot.other{fill:var(--other)}
.line.soft{stroke:var(--soft);stroke-width:1;stroke-dasharray:4 4}.line.faint{opacity:.35}
"""


def document(title: str, parts: Sequence[str]) -> str:
    """The page: its heading, then `parts` (HTML)."""
    return (
        "<!doctype html><html lang=en><head><meta charset=utf-8>"
        "<meta name=viewport content='width=device-width,initial-scale=1'>"
        f"<title>{escape(title)}</title><style>{_STYLE}</style></head><body><h1>{escape(title)}</h1>"
        f"{''.join(parts)}</body></html>\n"
    )


def table(head: Sequence[str], rows: Sequence[Sequence[str]], best: str = "") -> str:
    """A table of cells (HTML) under titles (text); the row that begins with `best` stands out."""
    body = "".join(
        f"<tr{' class=best' if best and row[0] == best else ''}>{''.join(f'<td>{cell}</td>' for cell in row)}</tr>"
        for row in rows
    )
    titles = "".join(f"<th>{escape(name)}</th>" for name in head)
    return f"<div class=wide><table><thead><tr>{titles}</tr></thead><tbody>{body}</tbody></table></div>"
