"""A small model for tests that need one, whatever it says."""

from __future__ import annotations

from datetime import UTC, datetime

import numpy as np
import xgboost

from engine.features import schema
from engine.learning.candidates import Blend
from engine.learning.head import Head
from engine.learning.model import Model
from engine.learning.related import nothing
from engine.learning.windows import WEEK_HOURS, with_everybody


def small_model(head: Head | None = None) -> Model:
    """A model of three trees; with `head` it scores clicks."""
    data = np.random.default_rng(2).random((200, schema.COUNT)).astype(np.float32)
    labels = (data[:, 0] > 0.5).astype(np.float32)
    booster = xgboost.train({"objective": "binary:logistic", "nthread": 1}, xgboost.DMatrix(data, labels), 3)
    windows, now = with_everybody(np.ones(WEEK_HOURS)), datetime(2026, 3, 2, tzinfo=UTC)
    return Model(booster, 1.0, nothing(np.array([1])), Blend(), windows, now, head=head)
