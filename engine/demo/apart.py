"""Work in a process of its own: what it held in memory is measured, and given back when it ends."""

from __future__ import annotations

import multiprocessing
import resource
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from engine.errors import HoraeError

Progress = Callable[[str, float], None]

_ENDED_SECONDS = 60.0


def apart(work: Callable[..., Any], *arguments: Any, tell: Progress) -> tuple[Any, float]:
    """`work(*arguments, tell)` in a fresh Python: its result, and the most memory it held, in MB.

    `work` is a module's function; arguments and result are pickled. Its exceptions are raised here; HoraeError where
    the process ended without a word, as one does that the kernel killed.
    """
    context = multiprocessing.get_context("spawn")  # a fork would begin with this process' memory
    ours, theirs = context.Pipe(duplex=False)
    child = context.Process(target=_run, args=(theirs, work, arguments), daemon=True)
    child.start()
    theirs.close()
    try:
        while True:
            kind, *told = ours.recv()
            if kind == "told":
                tell(*told)
            elif kind == "failed":
                raise told[0]
            else:
                return told[0], told[1]
    except EOFError:
        child.join(_ENDED_SECONDS)
        raise HoraeError(
            f"a process that was measured ended early, exit code {child.exitcode}",
            hint="a negative code is a signal: -9 is what a machine short of memory sends",
        ) from None
    finally:
        child.join(_ENDED_SECONDS)
        child.kill()
        ours.close()


def peak_mb() -> float:
    """The most memory this process has held, in MB."""
    status = Path("/proc/self/status")
    if status.exists():  # Linux: ru_maxrss still knows the parent's size from before the exec
        line = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM:"))
        return int(line.split()[1]) / 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1 << 20)


def _run(pipe: Connection, work: Callable[..., Any], arguments: tuple[Any, ...]) -> None:
    def tell(what: str, share: float) -> None:
        pipe.send(("told", what, share))

    try:
        pipe.send(("done", work(*arguments, tell), peak_mb()))
    except Exception as error:
        pipe.send(("failed", error))
