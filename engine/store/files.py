"""Files that appear whole or not at all."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from engine.errors import BadInput


@contextmanager
def written_whole(file: Path) -> Iterator[Path]:
    """The path to write to instead of `file`, which it becomes at the end; after an error nothing of it is left.

    Raises BadInput where it cannot be written.
    """
    part = file.with_name(f".{file.name}.part-{os.getpid()}")
    try:
        yield part
        part.replace(file)
    except OSError as error:
        raise BadInput(f"{file} cannot be written: {error.strerror or error}") from error
    finally:
        part.unlink(missing_ok=True)
