"""The epoch of the caps: a stretch of time in which their Redis lost nothing.

`workspace` names it: a number, which every intent holds FOR SHARE and compares, and the store it belongs to (run_id of
the server, the token its logs live under, how far back they reach). A key alone would survive a restart that lost its
last second; the run_id alone would survive a flush. Where either is not as it was, the number moves first, in
PostgreSQL: from then on no intent of the old epoch commits, and every log is rebuilt under the new token.
"""

from __future__ import annotations

import secrets
from datetime import timedelta

from sqlalchemy import Connection, text

from engine.delivery.reserve import CapStore, Epoch
from engine.errors import RedisUnavailable
from engine.store.database import Transactions

_TRIES = 5

_READ = text("SELECT cap_epoch, cap_store_id FROM workspace WHERE id = 1")
_MOVE = text(
    "UPDATE workspace SET cap_epoch = cap_epoch + 1, cap_store_id = :new"
    " WHERE id = 1 AND cap_epoch = :number AND cap_store_id IS NOT DISTINCT FROM :old RETURNING cap_epoch"
)


def current_epoch(database: Transactions, caps: CapStore, horizon: timedelta) -> Epoch:
    """The epoch that holds now; a new one where Redis lost data or the logs do not reach back by `horizon`.

    Raises RedisUnavailable: then nothing may leave.
    """
    for _ in range(_TRIES):
        with database.apart() as connection:
            number, store_id = connection.execute(_READ).one()
        known = _parse(number, store_id)
        if known is not None and known.horizon >= horizon and caps.holds(known.run_id, known.token):
            return known
        begun = _begin(database, caps, number, store_id, max(horizon, known.horizon if known else horizon))
        if begun is not None:
            if known is not None:
                caps.forget(known.token)  # whoever still holds it is told at once
            return begun
    raise RedisUnavailable("the caps' Redis loses its data again and again", hint="nothing leaves until it stays up")


def move_epoch(connection: Connection) -> None:
    """Let every intent that has not committed yet fail, without touching the logs: what `stop` needs to be exact.

    Waits for the intents that are being committed.
    """
    connection.execute(text("UPDATE workspace SET cap_epoch = cap_epoch + 1 WHERE id = 1"))


def _begin(database: Transactions, caps: CapStore, number: int, old: str | None, horizon: timedelta) -> Epoch | None:
    """A new epoch, or None where another process was faster. The marker is written before anybody can read its name."""
    token = secrets.token_hex(6)
    run_id = caps.run_id()
    caps.open(token)
    new = f"{run_id}:{token}:{-(-horizon // timedelta(days=1))}"
    with database.begin() as connection:
        moved = connection.execute(_MOVE, {"new": new, "number": number, "old": old}).scalar_one_or_none()
    if moved is None:
        caps.forget(token)
        return None
    return _parse(moved, new)


def _parse(number: int, store_id: str | None) -> Epoch | None:
    if store_id is None:
        return None
    run_id, token, days = store_id.split(":")
    return Epoch(number, run_id, token, timedelta(days=int(days)))
