"""The console: Horae for people who are not engineers. Server-rendered pages, htmx for what lives, no build step.

How a page comes to be, say `audiences`:

1. `pages/audiences.py` with `routes(console) -> APIRouter` and, where it belongs in the navigation, `LINKS`; one line
   in `pages/__init__.py` registers it.

       LINKS = (Link("/console/audiences", word("Audiences")),)

       def routes(console: Console) -> APIRouter:
           router = console.router("/console/audiences")

           @router.get("")
           async def index(request: Request) -> Response:
               visit = await console.enter(request)                 # scope read; else login, or 403
               found = await console.desk.transact(audiences.all)   # f(connection, now) in a thread and a transaction
               return visit.page("audiences/index.html", audiences=found)

           @router.post("/{name}/delete")
           async def delete(request: Request, name: str) -> Response:
               visit, form = await console.act(request, "operate")  # also: the CSRF token, the body's bounds
               await console.desk.transact(lambda c, now: audiences.delete(c, name, author=visit.actor))
               return visit.go("/console/audiences", visit.say("%(name)s is deleted.", name=name))

           return router

   A page calls the functions that the API and the CLI call and passes `visit.actor` for the audit log. It holds no SQL:
   what it reads and nobody has read before goes into a small module beside the table's owner. What opens transactions
   of its own runs in `desk.do`, what takes seconds in `desk.do_long`. A HoraeError that a handler lets through is shown
   as an error page with its hint, or above the page where htmx asked; a form that shows errors at its fields catches
   BadInput itself and renders itself again with status 422.

2. `templates/audiences/*.html` extend `layout.html` and take its macros from `ui.html`:
   `{% import "ui.html" as ui with context %}`: `head`, `table`, `empty`, `form`, `field`, `button`, `confirm`, `badge`,
   `tiles`, `chart`, `heatmap`, `pager`. Every table has an `empty` that says what to do next. Buttons of what a visitor
   may not do are left out (`visit.may("operate")`), and the handler says no to it all the same. Fragments for htmx are
   templates that extend nothing, rendered by `visit.part`.

3. Strings are English in the source: `_("…")` and `{% trans %}` in templates (a literal % is written %%),
   `visit.say("…")` in Python, `word("…")` for labels in constants. `locale/zh_Hans/audiences.po` holds the Chinese;
   `tests/unit/test_console_words.py` names every string without one; what several areas say is in `base.po`. Numbers
   and times go through the filters `number`, `percent`, `instant` (the workspace's zone), `reading` (a user's clock),
   `day`, `span`, `ago`. Names of states and reasons: `{{ name|term }}`, from `terms.py`.

The content security policy allows neither inline scripts nor inline styles, so: no `style=`, no `onclick=`, no
`<script>` in templates, no `hx-on`, no `hx-vals="js:…"`. htmx is version 4: attributes are inherited only with
`:inherited`, and answers of status 4xx and 5xx are swapped in too. Behaviour belongs to `static/console.js`, looks to
`static/console.css`, whose first rule holds every colour and size as a custom property, light and dark.
"""
