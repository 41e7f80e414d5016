"""Keeps programs running in the foreground: their lines interleaved, restarted when they die, stopped together.

One thread waits for everything at once: lines of output, deaths, signals, restarts that have become due. Each program
leads a process group of its own, so that Ctrl-C in the terminal reaches the supervisor alone, and so that what a
program leaves behind can be ended with it. Where this process itself is killed, Linux ends the programs.
"""

from __future__ import annotations

import ctypes
import os
import selectors
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

from engine import clock

FIRST_DELAY, LONGEST_DELAY = 1.0, 30.0
"""Seconds before a program that died is started again; doubled each time."""
STEADY_SECONDS = 60.0
"""A program that lived this long starts again with the first delay."""
GRACE_SECONDS = 40.0
"""How long programs get to end by themselves: a worker finishes what it is doing."""
LOOK_SECONDS = 5.0
"""How often `look` is called."""
STOPPING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
PR_SET_PDEATHSIG = 1

Say = Callable[[str, str], None]
"""Shows one line of a program: (name, line)."""


@dataclass(frozen=True)
class Program:
    """A program to keep running."""

    name: str
    command: tuple[str, ...]
    directory: Path
    environment: Mapping[str, str] = field(default_factory=dict)
    """Added to this process' own."""


class Supervisor:
    """Runs `programs` until SIGINT, SIGTERM or SIGHUP; a second one does not wait any longer.

    `say` shows a line; `look` is called every few seconds (it may bring back what the programs need).
    """

    def __init__(self, programs: Sequence[Program], say: Say, look: Callable[[], None] = lambda: None) -> None:
        self._say = say
        self._look = look
        self._selector = selectors.DefaultSelector()
        self._runs = [_Run(program) for program in programs]
        self._signals = 0

    def run(self) -> None:
        """Start the programs and keep them running until a signal says to stop; then stop them all."""
        with self._signals_heard():
            try:
                looked_at = clock.monotonic()
                while not self._signals:
                    self._start_due()
                    self._wait(self._until_next(looked_at + LOOK_SECONDS))
                    if clock.monotonic() >= looked_at + LOOK_SECONDS:
                        self._look()
                        looked_at = clock.monotonic()
            finally:
                self._stop_all()

    def _start_due(self) -> None:
        for run in self._runs:
            if run.process is None and clock.monotonic() >= run.start_at:
                run.start()
                assert run.output is not None
                self._selector.register(run.output, selectors.EVENT_READ, run)

    def _until_next(self, look_at: float) -> float:
        due = [run.start_at for run in self._runs if run.process is None]
        return max(0.0, min([look_at, *due]) - clock.monotonic())

    def _wait(self, seconds: float) -> None:
        """Show the lines that come and notice deaths, for `seconds` at most."""
        for key, _ in self._selector.select(seconds):
            if isinstance(key.data, _Run):
                self._show(key.data)
            else:
                os.read(key.fd, 512)
        for run in self._runs:
            if run.process is not None and run.process.poll() is not None:
                self._ended(run)

    def _show(self, run: _Run) -> bool:
        """Show the lines that have come; whether there were any."""
        assert run.output is not None
        try:
            data = os.read(run.output.fileno(), 65536)
        except BlockingIOError:
            return False
        *lines, run.rest = (run.rest + data).split(b"\n") if data else (run.rest, b"")
        for line in lines:
            if line.strip():
                self._say(run.program.name, line.decode(errors="replace").rstrip())
        if not data:
            self._selector.unregister(run.output)
        return bool(data)

    def _ended(self, run: _Run) -> None:
        assert run.output is not None
        while run.output in self._selector.get_map() and self._show(run):
            pass
        if run.output in self._selector.get_map():  # somebody it left behind holds the other end
            self._selector.unregister(run.output)
        code, delay = run.finish()
        if not self._signals:
            how = f"ended with {code}" if code >= 0 else f"was ended by {signal.Signals(-code).name}"
            self._say("horae", f"{run.program.name} {how}; starting it again in {delay:.0f} s")

    def _stop_all(self) -> None:
        for run in self._runs:
            run.signal(signal.SIGTERM)
        until = clock.monotonic() + GRACE_SECONDS
        while any(run.process for run in self._runs) and clock.monotonic() < until and self._signals < 2:
            self._wait(until - clock.monotonic())
        for run in self._runs:
            if run.process is not None:
                self._say("horae", f"{run.program.name} does not end; killing it")
                run.kill_group()
                run.process.wait()
                self._ended(run)
        self._selector.close()

    @contextmanager
    def _signals_heard(self) -> Iterator[None]:
        """Count those that ask to stop; every signal, a child's death too, wakes the selector."""
        reader, writer = os.pipe()
        os.set_blocking(reader, False)
        os.set_blocking(writer, False)
        self._selector.register(reader, selectors.EVENT_READ)

        def asked(*_: object) -> None:
            self._signals += 1

        wake_before = signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
        before = {number: signal.signal(number, asked) for number in STOPPING}
        before[signal.SIGCHLD] = signal.signal(signal.SIGCHLD, lambda *_: None)
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)
            signal.set_wakeup_fd(wake_before)
            os.close(reader)
            os.close(writer)


class _Run:
    """One program and its present process."""

    def __init__(self, program: Program) -> None:
        self.program = program
        self.process: subprocess.Popen[bytes] | None = None
        self.output: IO[bytes] | None = None
        self.rest = b""
        self.start_at = self.started_at = clock.monotonic()
        self._delay = FIRST_DELAY

    def start(self) -> None:
        self.process = subprocess.Popen(
            self.program.command,
            cwd=self.program.directory,
            env={**os.environ, **self.program.environment},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            preexec_fn=_end_with_parent(),  # noqa: PLW1509 - this process has one thread
        )
        self.output = self.process.stdout
        assert self.output is not None
        os.set_blocking(self.output.fileno(), False)
        self.started_at, self.rest = clock.monotonic(), b""

    def finish(self) -> tuple[int, float]:
        """Forget the dead process; its return code and the seconds until the next start."""
        assert self.process is not None and self.output is not None  # noqa: PT018 - one fact
        code = self.process.returncode
        self.kill_group()  # what it left behind
        self.output.close()
        self.process = self.output = None
        if clock.monotonic() - self.started_at >= STEADY_SECONDS:
            self._delay = FIRST_DELAY
        delay, self._delay = self._delay, min(self._delay * 2, LONGEST_DELAY)
        self.start_at = clock.monotonic() + delay
        return code, delay

    def signal(self, number: signal.Signals) -> None:
        if self.process is not None and self.process.poll() is None:
            self.process.send_signal(number)

    def kill_group(self) -> None:
        assert self.process is not None
        try:
            os.killpg(self.process.pid, signal.SIGKILL)
        except (ProcessLookupError, PermissionError):  # nobody is left in it; macOS says it the second way
            return


def _end_with_parent() -> Callable[[], None] | None:
    """What a child does first on Linux: ask for SIGTERM at its parent's death, and end if that has happened already."""
    if sys.platform != "linux":
        return None
    libc, parent = ctypes.CDLL(None), os.getpid()

    def ask() -> None:
        libc.prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
        if os.getppid() != parent:
            os._exit(1)

    return ask
