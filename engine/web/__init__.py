"""Horae over HTTP: the event API, metrics and health. Every answer that refuses is a problem document (RFC 9457)."""

from engine.web.app import create_app
from engine.web.server import serve

__all__ = ["create_app", "serve"]
