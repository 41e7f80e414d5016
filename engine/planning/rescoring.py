"""The score of a decision, taken apart: the model's own answer for the feature row that the receipt kept."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from sqlalchemy import Connection

from engine.errors import HoraeError
from engine.features import schema
from engine.learning import registry
from engine.learning.explaining import Reason, explain_rows
from engine.learning.model import Model

WINDOW = np.array([feature.group == "window" for feature in schema.FEATURES])


@dataclass(frozen=True)
class ScoreParts:
    """How a score came about.

    score: as stored; regime: goal, click or baseline; recomputed: the model's answer for the stored row, None where
    there is no row or no model (`missing` says why); hour: the window's factor where the model knows no windows
    (regime goal); worth: what a unit of score is worth to the campaign; reasons: the weightiest parts of the score.
    """

    score: float
    regime: str
    recomputed: float | None
    hour: float | None
    worth: float
    reasons: tuple[Reason, ...]
    missing: str | None = None


def score_parts(
    connection: Connection, version: int, row: np.ndarray, score: float | None, worth: float
) -> ScoreParts | None:
    """The parts of `score` by model `version` (0: the baseline) for feature row float32[F]; None without a score."""
    if score is None:
        return None
    if version == 0:
        missing = "no model yet: the baseline scores by the user's history and popularity, which no receipt keeps"
        return ScoreParts(score, "baseline", None, None, worth, (), missing)
    try:
        model = registry.load(connection, version)
    except HoraeError as error:
        return ScoreParts(score, "unknown", None, None, worth, (), f"model {version}: {error.message}")
    if len(row) != len(schema.FEATURES):
        missing = (
            "the receipt keeps no feature row" if not len(row) else "the receipt has the features of another schema"
        )
        return ScoreParts(score, model.regime, None, None, worth, (), missing)
    return _parts(model, row, score, worth)


def _parts(model: Model, row: np.ndarray, score: float, worth: float) -> ScoreParts:
    asked = row[None, :].copy()
    if model.regime != "click":
        asked[:, WINDOW] = np.nan  # these labels know no window
    (told,) = explain_rows(model, asked)
    if model.regime == "click":
        return ScoreParts(score, model.regime, told.score, None, worth, told.reasons)
    hour = score / told.score if told.score > 0 else None
    return ScoreParts(score, model.regime, told.score, hour, worth, told.reasons)
