"""The allocation beside the exact optimum, on small markets: close to it, and no rule broken."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from engine.bench import allocate as bench
from engine.bench.market import market
from engine.bench.program import violations


@pytest.mark.parametrize("scenario", ["random", "scarce", "equal values"])
def test_the_allocation_is_close_to_the_optimum_and_the_same_through_any_shards(scenario: str) -> None:
    here = market(scenario, 600, 8, seed=3)

    found, broken = bench.compare(here)

    assert broken == 0
    assert found["horae, 1 shard"] == found["horae, 16 shards"]
    assert 0.98 <= found["horae, 1 shard"] <= 1 + 1e-9
    assert all(0 < ratio <= 1 + 1e-9 for ratio in found.values())


def test_a_plan_that_breaks_rules_is_found_to_break_them() -> None:
    here = market("random", 300, 8, seed=3)
    plan = bench.allocate(here, 1)
    twice = replace(plan, **{name: np.repeat(getattr(plan, name), 2) for name in plan.__dataclass_fields__})

    assert violations(here, plan) == 0
    assert violations(here, twice) >= 3 * len(plan.row)
