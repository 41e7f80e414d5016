"""Arms of a message under test: shares follow weights, users keep their arm, and only those move who must."""

from __future__ import annotations

from collections import Counter

from hypothesis import given, settings
from hypothesis import strategies as st

from engine.campaigns.experiment import split_of
from engine.campaigns.wording import Experiment

SECRET = b"a workspace's key"
USERS = range(1, 1501)

weights = st.dictionaries(st.sampled_from("abcdefghi"), st.floats(0.5, 100), min_size=2, max_size=9)


def arms(given_weights: dict[str, float], name: str = "test", campaign: int = 7, secret: bytes = SECRET) -> list[str]:
    experiment = Experiment.model_validate(
        {"name": name, "arms": {arm: {"weight": weight} for arm, weight in given_weights.items()}}
    )
    split = split_of(secret, campaign, experiment)
    return [split.arm(user) for user in USERS]


@settings(max_examples=40, deadline=None)
@given(weights)
def test_shares_follow_the_weights(chosen):
    counted, total = Counter(arms(chosen)), sum(chosen.values())
    for arm, weight in chosen.items():
        share = weight / total
        spread = (len(USERS) * share * (1 - share)) ** 0.5
        assert abs(counted[arm] - len(USERS) * share) <= 5 * spread + 1


@settings(max_examples=40, deadline=None)
@given(weights, st.floats(1.01, 10), st.randoms(use_true_random=False))
def test_where_one_weight_grows_users_move_into_that_arm_only(chosen, factor, order):
    grown = order.choice(sorted(chosen))
    before, after = arms(chosen), arms({**chosen, grown: chosen[grown] * factor})
    moved = [(old, new) for old, new in zip(before, after, strict=True) if old != new]
    assert all(new == grown for _, new in moved)
    assert all(old != grown for old, _ in moved)


@settings(max_examples=40, deadline=None)
@given(weights, st.floats(0.5, 100))
def test_a_new_arm_takes_users_and_gives_none(chosen, weight):
    before, after = arms(chosen), arms({**chosen, "new": weight})
    assert all(new in (old, "new") for old, new in zip(before, after, strict=True))


@settings(max_examples=20, deadline=None)
@given(weights, st.integers(-3, 3))
def test_the_order_of_arms_and_the_unit_of_weights_move_nobody(chosen, power):
    turned = {arm: weight * 2.0**power for arm, weight in reversed(chosen.items())}
    assert arms(chosen) == arms(turned)


def test_another_experiment_campaign_or_workspace_draws_anew():
    halves = {"a": 50.0, "b": 50.0}
    first = arms(halves)
    for other in (arms(halves, name="other"), arms(halves, campaign=8), arms(halves, secret=b"another key")):
        same = sum(one == two for one, two in zip(first, other, strict=True))
        assert abs(same - len(USERS) / 2) < 5 * (len(USERS) / 4) ** 0.5
    assert first == arms(halves)
