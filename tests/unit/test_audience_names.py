"""Audiences inside audiences: names become rules; circles, unknown names and towers are refused."""

from __future__ import annotations

from typing import Any

import pytest

from engine.campaigns.filters import parts
from engine.campaigns.saved_audience import DEEPEST, SavedAudience, expand, names_in, reached, require_sound
from engine.errors import BadInput, UnknownName

SEEN = {"seen_within": "3d"}


def rules(condition: Any) -> Any:
    return SavedAudience.model_validate({"name": "one", "rules": condition}).rules


def test_rules_stand_in_the_place_of_names_at_any_depth():
    known = {
        "vip": rules({"all": [{"audience": "regular"}, {"attribute": "tier", "equals": "gold"}]}),
        "regular": rules({"event": "purchase", "at_least": 3}),
    }
    asked = rules({"any": [SEEN, {"not": {"audience": "vip"}}, {"none": [{"audience": "regular"}]}]})
    meant = {"all": [{"event": "purchase", "at_least": 3}, {"attribute": "tier", "equals": "gold"}]}
    assert expand(asked, known) == rules({"any": [SEEN, {"not": meant}, {"none": [known["regular"]]}]})
    assert names_in(asked) == ["vip", "regular"]
    assert reached(rules({"audience": "vip"}), known) == ["vip", "regular"]


def test_a_circle_is_refused_with_both_names():
    known = {"a": rules({"audience": "b"}), "b": rules({"not": {"audience": "a"}})}
    with pytest.raises(BadInput, match="audience b may not use audience a: then a uses b uses a"):
        require_sound("audience a", known["a"], known)
    with pytest.raises(BadInput, match="audience a may not use audience a"):
        require_sound("audience a", rules({"audience": "a"}), {"a": rules({"audience": "a"})})


def test_an_unknown_name_is_refused_with_who_uses_it_and_the_nearest_there_is():
    with pytest.raises(UnknownName, match=r"audience vip uses the audience 'reglar', which does not exist.*regular"):
        require_sound("audience vip", rules({"audience": "reglar"}), {"regular": rules(SEEN)})


def test_towers_and_floods_are_refused():
    tower = {f"a{n}": rules({"audience": f"a{n + 1}"}) for n in range(DEEPEST)} | {f"a{DEEPEST}": rules(SEEN)}
    require_sound("audience a1", tower["a1"], tower)
    with pytest.raises(BadInput, match=f"at most {DEEPEST}"):
        require_sound("audience a0", tower["a0"], tower)
    flood = {"wide": rules({"any": [SEEN] * 150}), "wider": rules({"any": [{"audience": "wide"}] * 7})}
    with pytest.raises(BadInput, match=r"campaign c comes to 1,058 conditions"):
        require_sound("campaign c", rules({"audience": "wider"}), flood)


def test_an_expanded_filter_may_nest_deeper_than_a_written_one():
    deep: Any = SEEN
    for _ in range(7):
        deep = {"not": deep}
    twice = expand(rules({"not": {"audience": "deep"}}), {"deep": rules(deep)})
    assert len(list(parts(twice, most=None))) == 9
