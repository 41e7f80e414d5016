"""Horae: the right item, at the right hour, never too often."""

__version__ = "0.1.0"
