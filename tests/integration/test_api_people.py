"""What the API says about a user."""

from __future__ import annotations

import json

from engine.planning.explain import explain
from engine.runtime import Runtime
from tests.api_server import make_key, serving
from tests.planning_shop import Workers, create, daily, fill_shop, rows


def test_a_decision_is_explained_as_at_the_command_line(runtime: Runtime) -> None:
    shop = fill_shop(runtime)
    create(shop, daily())
    Workers(shop).tick()
    [user] = [row.external_id for row in rows(shop, "SELECT external_id FROM users ORDER BY id LIMIT 1")]
    key, writer = make_key(shop.database, "read"), make_key(shop.database, "write")
    with serving(shop) as api:
        [said] = api.ask(f"/v1/users/{user}/explain", key=key).json
        missing = api.ask("/v1/users/nobody/explain", key=key)
        assert api.ask(f"/v1/users/{user}/explain?campaign=none", key=key).status == 404
        assert api.ask(f"/v1/users/{user}/explain?run=x", key=key).status == 400
        assert api.ask("/v1/users/%00/explain", key=key).status == 404
        assert api.ask(f"/v1/users/{user}/explain", key=writer).status == 403

    [one] = explain(shop.database, shop.gateways, user)
    assert (said["user"], said["campaign"], said["reason"]) == (one.user, one.campaign, one.reason)
    assert said["verdict"] == one.verdict == "agrees"
    assert "NaN" not in json.dumps(said)
    assert (missing.status, missing.headers["Content-Type"]) == (404, "application/problem+json")
    assert missing.json["hint"]
