"""Campaign files: what they may hold, and how each fault is said to the person who wrote it."""

from __future__ import annotations

import json
from datetime import timedelta
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.campaigns.definition import Campaign
from engine.campaigns.fields import duration_text, hours_text, in_words, parse_duration, parse_hours
from engine.campaigns.loading import load
from engine.campaigns.yamlfile import parse
from engine.errors import BadInput

PLAIN: dict[str, Any] = {
    "name": "weekly",
    "class": "marketing",
    "schedule": {"cron": "0 9 * * THU", "zone": "local"},
    "message": {"title": "For you", "body": "Have a look"},
}

WHOLE = """
name: weekly-picks
class: marketing
schedule: {cron: 0 9 * * THU, zone: local}
audience:
  all:
    - {field: country, in: [NO, SE]}
    - {attribute: age, gte: 18, lt: 99.5}
    - any: [{attribute: tier, equals: gold}, {attribute: vip, equals: true}]
    - {event: purchase, at_least: 2, within: 30d, category: wine}
    - not: {seen_within: 3d}
items:
  kind: personalised
  where: {field: price, lte: 50}
hours: 09:00-21:00
horizon: 12h
expiry: 2027-01-01T00:00
message:
  title: "Hi {{ user.attributes.name | default: 'there' }}"
  body: "{{ item.title }} for {{ item.price | decimals: 2 }}"
  data: {link: "app://item/{{ item.id }}"}
  locales:
    zh-CN: {title: 你好, body: "{{ item.title }}"}
caps:
  - {limit: 1, window: local_week}
tags: [weekly]
holdout: 0.1
"""


def written(tmp_path: Path, content: str | dict[str, Any]) -> Path:
    path = tmp_path / "campaign.yaml"
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return path


def refused(tmp_path: Path, **changes: Any) -> str:
    with pytest.raises(BadInput) as error:
        load(written(tmp_path, {**PLAIN, **changes}))
    return error.value.message


def test_a_whole_definition_reads_back_from_its_stored_form(tmp_path):
    campaign = load(written(tmp_path, WHOLE))

    stored = json.loads(campaign.model_dump_json(exclude_none=True))

    assert Campaign.model_validate(stored) == campaign
    assert stored["audience"]["all"][0]["in"] == ["NO", "SE"]  # Norway, not false
    assert (stored["hours"], stored["horizon"]) == ("09:00-21:00", "PT12H")
    assert campaign.item_once_days == 7


def test_the_schema_describes_every_field_and_takes_a_whole_definition():
    schema = Campaign.model_json_schema(by_alias=True)

    jsonschema.Draft202012Validator.check_schema(schema)
    jsonschema.validate(parse(WHOLE, "whole").value, schema)
    jsonschema.validate({**PLAIN, "items": "personalised"}, schema)
    undescribed = [
        f"{model}.{name}"
        for model, part in {"Campaign": schema, **schema["$defs"]}.items()
        for name, field in part.get("properties", {}).items()
        if "description" not in field
    ]
    assert undescribed == []


def test_transactional_campaigns_neither_obey_nor_count_toward_caps_unless_told():
    marketing = Campaign.model_validate(PLAIN)
    transactional = Campaign.model_validate({**PLAIN, "class": "transactional"})
    told = Campaign.model_validate({**PLAIN, "class": "transactional", "counts_toward_caps": True})

    assert (marketing.obeys_caps, marketing.counts_toward_caps) == (True, True)
    assert (transactional.obeys_caps, transactional.counts_toward_caps) == (False, False)
    assert (told.obeys_caps, told.counts_toward_caps) == (False, True)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"name": "bad name"}, "name: must begin with a letter or digit"),
        ({"name": 7}, "name must be text: put it in quotes"),
        ({"class": "marketting"}, "class must be 'marketing' or 'transactional'; did you mean marketing?"),
        ({"hors": "09:00-21:00"}, "hors is no field here; did you mean hours?"),
        ({"message": {"title": "t"}}, "message.body is needed"),
        ({"message": "hello"}, "message must be a"),
        ({"schedule": {}}, "schedule: needs either once or cron"),
        ({"schedule": {"cron": "0 9 * * *"}}, "zone is needed"),
        ({"schedule": {"cron": "61 9 * * *", "zone": "utc"}}, "schedule.cron: '61 9 * * *' is wrong: '61' is no"),
        ({"schedule": {"cron": "0 9 31 2 *", "zone": "utc"}}, "never fires"),
        ({"schedule": {"cron": "0 9 * * *", "zone": "Europe/Berln"}}, "did you mean Europe/Berlin?"),
        ({"schedule": {"once": "27.11.2026", "zone": "utc"}}, "schedule.once: must be a date and time"),
        ({"schedule": {"once": "2026-11-27T18:00+01:00", "zone": "utc"}}, "leave one of them out"),
        ({"hours": "09:00-09:00"}, "hours: empty"),
        ({"hours": "9 to 5"}, "hours: must be written like 09:00-21:00"),
        ({"hours": "09:00-25:00"}, "'25:00' is no time of day"),
        ({"horizon": "3 parsecs"}, "horizon: must be a duration"),
        ({"horizon": "-3h"}, "horizon: must be a duration"),
        ({"horizon": "5m"}, "horizon (5m) must be at least 30m"),
        ({"holdout": 2}, "holdout must be less than or equal to 1"),
        ({"holdout": 0.7, "exploration": 0.5}, "holdout and exploration are 1.2 together"),
        ({"capacity_per_quarter": 0}, "capacity_per_quarter must be greater than or equal to 1"),
        ({"caps": [{"limit": -1, "window": "local_day"}]}, "caps[0].limit must be greater than or equal to 0"),
        ({"caps": [{"limit": 1, "window": "fortnight"}]}, "local_day, local_week or rolling"),
        ({"caps": [{"limit": 1, "window": "local_day"}], "counts_toward_caps": False}, "counts_toward_caps is false"),
        ({"obeys_quiet_hours": False}, "obeys_quiet_hours may be false only where class is transactional"),
        ({"expiry": "2026-11-27T17:00", "schedule": {"once": "2026-11-27T18:00", "zone": "local"}},
         "expiry (2026-11-27 17:00) is not after schedule.once (2026-11-27 18:00)"),
        ({"expiry": "2026-11-27T17:00", "schedule": None}, "expiry needs an offset"),
        ({"items": "fixd"}, "items must be 'none', 'fixed', 'personalised' or 'event'; did you mean fixed?"),
        ({"items": "fixed"}, "ids are needed with kind fixed"),
        ({"items": {"kind": "none", "ids": ["a"]}}, "ids need kind fixed"),
        ({"message": {"title": "{{ item.title }}", "body": "b"}}, "needs an item, and items are none"),
        ({"message": {"title": "{{ usr.id }}", "body": "b"}}, "unknown field 'usr.id'; did you mean user?"),
        ({"message": {"title": "{{ user", "body": "b"}}, "message: title:"),
        ({"message": {"title": "t", "body": "b", "locales": {"german": {"title": "t", "body": "b"}}}}, "is no locale"),
        ({"message": {"title": "", "body": "b"}}, "message.title must have at least 1 characters"),
        ({"message": {"title": "t", "body": "b" * 4001}}, "message.body must have at most 4000 characters"),
        ({"tags": [f"t{n}" for n in range(30)]}, "tags must have at most 20 items"),
        ({"tags": ["a:b"]}, "tags[0]: must begin"),
        ({"audience": {"atribute": "x", "equals": 1}}, "must be a condition, with one of all, any"),
        ({"audience": {"atribute": "x", "equals": 1}}, "did you mean attribute?"),
        ({"audience": {"all": [{"attribute": "x", "equal": 1}]}},
         "audience.all[0].equal is no field here; did you mean equals?"),
        ({"audience": {"attribute": "x"}}, "compares with nothing"),
        ({"audience": {"attribute": "x", "equals": [1]}}, "audience.equals must be text, a number or true/false"),
        ({"audience": {"field": "contry", "equals": "DE"}}, "did you mean country?"),
        ({"audience": {"event": "purchase", "at_least": 3, "at_most": 2}}, "nobody fits"),
        ({"audience": {"attribute": "x", "equals": "a\0b"}}, "NUL"),
        ({"audience": []}, "must be a condition"),
        ({"priority": 0}, "priority must be greater than 0"),
        ({"trigger": {"event": "view"}}, "trigger and schedule both say when it is due"),
        ({"trigger": {"event": "view", "price_drop": "5%"}, "schedule": None},
         "trigger: event and price_drop both say what makes it due"),
        ({"trigger": {}, "schedule": None}, "trigger: needs one of event, first_event, price_drop"),
        ({"trigger": {"price_drop": "a lot"}, "schedule": None}, "trigger.price_drop: must be a share like 10% or 0.1"),
        ({"trigger": {"price_drop": "110%"}, "schedule": None}, "trigger.price_drop must be less than 1"),
        ({"trigger": {"inactive_for": "2h"}, "schedule": None}, "inactive_for (2h) must be at least 24h"),
        ({"trigger": {"inactive_for": "9d", "where": {"field": "price", "gt": 1}}, "schedule": None},
         "where chooses items, and inactive_for is about none"),
        ({"trigger": {"event": "view", "where": {"feld": "price", "gt": 1}}, "schedule": None}, "did you mean field?"),
        ({"trigger": {"first_event": True, "cancel_if": ["purchase"], "same_item": True}, "schedule": None},
         "same_item needs an item, and first_event is about none"),
        ({"trigger": {"event": "view", "same_item": False}, "schedule": None},
         "same_item says nothing without cancel_if"),
        ({"trigger": {"event": "view", "interest": {"within": "3d"}}, "schedule": None},
         "interest says whom a change of an item concerns, and event has its user"),
        ({"trigger": {"first_event": True, "reentry": {"limit": 2}}, "schedule": None},
         "reentry lets a user in again, and first_event happens once"),
        ({"trigger": {"evnt": "view"}, "schedule": None}, "trigger.evnt is no field here; did you mean event?"),
        ({"items": "event"}, "items (event) are those of the trigger, and there is no trigger"),
        ({"items": "event", "trigger": {"first_event": True}, "schedule": None},
         "items (event) are those of the trigger, and trigger.first_event is about none"),
        ({"misfire": "burst"}, "misfire must be 'run_once' or 'skip'"),
        ({"topics": ["a b"]}, "topics[0]: must begin"),
    ],
)  # fmt: skip
def test_each_fault_is_said_with_its_field_and_what_is_allowed(tmp_path, changes, said):
    assert said in refused(tmp_path, **changes)


def test_all_faults_of_a_file_are_said_at_once_with_their_lines(tmp_path):
    path = written(tmp_path, "name: a b\nclass: x\nmessage:\n  title: t\n  bdy: b\nholdout: -1\n")

    with pytest.raises(BadInput) as error:
        load(path)

    lines = error.value.message.splitlines()
    assert lines[0] == f"{path}: 5 things are wrong"
    assert [line.split(":")[0].strip() for line in lines[1:]] == ["line 1", "line 2", "line 3", "line 5", "line 6"]


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("", "is empty"),
        ("# only a comment\n", "is empty"),
        ("- a\n- b\n", "not a mapping"),
        ("name: a\n---\nname: b\n", ":2: a second document begins here"),
        ("name: [unclosed\n", "not YAML"),
        ("name: a\nname: b\n", ":2: name is given twice"),
        ("name: &a x\nclass: *a\n", ":1: an anchor or alias has no place"),
        ("name: !!python/object:os.system x\n", ":1: a tag has no place"),
        ("? [a]\n: b\n", "a key must be a plain word"),
        ("name: a\0b\n", "not YAML"),
        ("a: " + "[" * 5000, "nests deeper"),
    ],
)
def test_a_file_that_is_no_definition_is_refused_by_name(tmp_path, content, said):
    with pytest.raises(BadInput, match=r"campaign\.yaml") as error:
        load(written(tmp_path, content))

    assert said in error.value.message


def test_files_that_cannot_be_read_are_refused_by_name(tmp_path):
    (tmp_path / "latin.yaml").write_bytes("name: Käse".encode("latin-1"))
    (tmp_path / "huge.yaml").write_bytes(b"# " + b"x" * 5_000_000)

    for name, said in (
        ("none.yaml", "no file"),
        (".", "cannot be read"),
        ("latin.yaml", "UTF-8"),
        ("huge.yaml", "large"),
    ):
        with pytest.raises(BadInput, match=said):
            load(tmp_path / name)


def test_scalars_are_what_people_mean():
    text = "a: 22:00\nb: NO\nc: 2026-11-27\nd: 007\ne: yes\nf: 1.50\ng: -3\nh: true\ni:\nj: '5'\nk: 1e3\n"

    value = parse(text, "x").value

    assert value == {
        "a": "22:00", "b": "NO", "c": "2026-11-27", "d": "007", "e": "yes", "f": 1.5, "g": -3, "h": True, "i": None,
        "j": "5", "k": 1000.0,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("text", "duration", "canonical", "words"),
    [
        ("90m", timedelta(minutes=90), "PT1H30M", "1h30m"),
        ("24h", timedelta(days=1), "PT24H", "24h"),
        ("1d", timedelta(days=1), "PT24H", "24h"),
        ("P1DT12H", timedelta(hours=36), "PT36H", "36h"),
        ("2w", timedelta(days=14), "P14D", "14d"),
        ("45s", timedelta(seconds=45), "PT45S", "45s"),
    ],
)
def test_durations_are_read_as_written_and_stored_one_way(text, duration, canonical, words):
    assert parse_duration(text) == duration
    assert (duration_text(duration), in_words(duration)) == (canonical, words)


@pytest.mark.parametrize("text", ["", "h", "0h", "-1h", "1.5h", "1y", "P1M", "99999999999999w", "5", None, 5])
def test_what_is_no_duration_is_refused(text):
    with pytest.raises(ValueError, match=r"duration|longer"):
        parse_duration(text)


@given(st.timedeltas(min_value=timedelta(seconds=1), max_value=timedelta(days=3650)))
@settings(max_examples=100)
def test_a_stored_duration_reads_back(duration):
    whole = timedelta(seconds=int(duration.total_seconds()))

    assert parse_duration(duration_text(whole)) == whole


@given(st.times(), st.times())
@settings(max_examples=100)
def test_stored_hours_read_back(start, until):
    start, until = start.replace(second=0, microsecond=0), until.replace(second=0, microsecond=0)
    if start != until:
        assert parse_hours(hours_text((start, until))) == (start, until)


def test_filters_nest_no_deeper_than_a_database_can_be_asked(tmp_path):
    deep: dict[str, Any] = {"field": "country", "equals": "DE"}
    for _ in range(9):
        deep = {"not": deep}
    wide = {"any": [{"attribute": f"a{n}", "equals": n} for n in range(300)]}

    assert "nests deeper than 8" in refused(tmp_path, audience=deep)
    assert "more than 200 conditions" in refused(tmp_path, audience=wide)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)


@given(st.sampled_from([*PLAIN, "audience", "items", "hours", "caps", "expiry", "tags", "horizon"]), json_values)
@settings(max_examples=200, deadline=None)
def test_any_value_of_any_field_is_taken_or_refused_in_words(field, value):
    from engine.campaigns.loading import build

    try:
        campaign = build(Campaign, {**PLAIN, field: value})
    except BadInput as error:
        said = error.message
        assert said
    else:
        assert Campaign.model_validate(json.loads(campaign.model_dump_json(exclude_none=True))) == campaign
