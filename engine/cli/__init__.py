"""`horae …`: parse, call one function, print."""

from engine.cli.app import main

__all__ = ["main"]
