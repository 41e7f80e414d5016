"""Answers as JSON, of the engine's own values."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic_core import to_json
from starlette.responses import Response


def answer(value: Any, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    """`value` as JSON: dataclasses are objects, instants ISO 8601, NaN null."""
    return Response(to_json(value, inf_nan_mode="null", fallback=str), status, headers, "application/json")
