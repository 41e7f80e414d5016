"""What a definition would do, as a part of a page: a plan of a sample, with messages as users would read them."""

from __future__ import annotations

from starlette.responses import Response

from engine.campaigns.definition import Campaign
from engine.campaigns.sampled import said_to
from engine.errors import BadInput, Faulty
from engine.web import previews
from engine.web.console.reception import Console
from engine.web.console.visit import Visit
from engine.web.console.words import word
from engine.web.previews import PreviewAsked

SAMPLE = 2_000
"""Users of a plan that is made while somebody looks."""

MEND_FIRST = word("It cannot be planned before what is wrong is mended.")


async def plan_part(console: Console, visit: Visit, name: str, definition: Campaign, asked: PreviewAsked) -> Response:
    """The plan of `asked` for campaign `name`, which sends the messages of `definition`."""
    try:
        found = await console.desk.do_long(lambda: previews.plan(console.desk, name, asked))
    except Faulty:
        return visit.part("editor/unplanned.html", why=visit.say(MEND_FIRST))
    except BadInput as error:
        return visit.part("editor/unplanned.html", why=visit.told(error))
    whom = [(one.user, one.item, one.variant) for one in found.examples]
    said = await console.desk.transact(lambda connection, _: said_to(connection, definition, whom))
    hours = [found.by_hour.get(hour, 0) for hour in range(24)]
    return visit.part("editor/plan.html", found=found, hours=hours, said={one.user: one for one in said})
