"""Lists of users in files: one id a line, or a CSV file with a column user_id."""

from __future__ import annotations

import csv
from pathlib import Path

from engine.campaigns.spreadsheet import unquoted
from engine.errors import BadInput

_MOST_BYTES = 512 * 1024 * 1024
_LONGEST = 1_000


def read_user_list(path: Path) -> tuple[str, ...]:
    """The user ids of a file, in order, each once; of a CSV file with a column user_id, as an export wrote them.

    Raises BadInput naming the file, and the line where one is wrong.
    """
    rows = [line for line in _text(path).splitlines() if line.strip()]
    if not rows:
        raise BadInput(f"{path} names no users", hint="one user_id a line, or a CSV file with a column user_id")
    header = [name.strip() for name in next(csv.reader(rows[:1]))]
    if "user_id" in header:
        column = header.index("user_id")
        parsed = [(number, row) for number, row in enumerate(csv.reader(rows[1:]), 2)]
        missing = next((number for number, row in parsed if len(row) <= column or not row[column].strip()), None)
        if missing is not None:
            raise BadInput(f"{path}, row {missing}: no user_id")
        ids = [unquoted(row[column].strip()) for _, row in parsed]
    elif len(header) > 1:
        raise BadInput(f"{path} has several columns and none is called user_id", hint=f"columns: {', '.join(header)}")
    else:
        ids = [row.strip().strip('"') for row in rows]
    long = next((number for number, user in enumerate(ids, 1) if len(user) > _LONGEST), None)
    if long is not None:
        raise BadInput(f"{path}, user {long}: an id of more than {_LONGEST} characters")
    return tuple(dict.fromkeys(ids))


def _text(path: Path) -> str:
    try:
        if path.stat().st_size > _MOST_BYTES:
            raise BadInput(f"{path} is larger than {_MOST_BYTES >> 20} MB")
        text = path.read_text(encoding="utf-8-sig")
    except FileNotFoundError as error:
        raise BadInput(f"{path} does not exist") from error
    except OSError as error:
        raise BadInput(f"{path} cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise BadInput(f"{path} is not UTF-8 text", hint="save the list as UTF-8 text or CSV") from error
    if "\0" in text:
        raise BadInput(f"{path} contains NUL bytes: this is no text file")
    return text
