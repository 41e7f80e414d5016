"""Texts that a spreadsheet would take for a formula, in CSV files that people open (pure).

Ids and attributes are what anybody may send; a spreadsheet runs a cell that begins with =, +, -, @, a tab or a line's
end. OWASP's advice (CSV Injection): an apostrophe before it. What begins with apostrophes and such a character gets one
more, so that reading takes away exactly what writing added.
"""

from __future__ import annotations

import re

import pyarrow as pa
import pyarrow.compute as pc

_BEGINS = r"'*[=+\-@\t\r\n＝＋－＠]"
"""How a text begins that needs the apostrophe; the wide forms are taken for the narrow ones."""

_QUOTED = re.compile(f"'{_BEGINS}")


def quoted(column: pa.StringArray) -> pa.StringArray:
    """The texts of a column as cells that no spreadsheet runs."""
    return pc.if_else(
        pc.match_substring_regex(column, f"^{_BEGINS}"), pc.binary_join_element_wise("'", column, ""), column
    )


def unquoted(cell: str) -> str:
    """The text that `quoted` made this cell of."""
    return cell[1:] if _QUOTED.match(cell) else cell
