"""`horae up`, `status`, `down`, `migrate`: one `horae up` is started, watched, hurt and stopped."""

from __future__ import annotations

import base64
import json
import re
import shutil
import signal
import stat
import tempfile
import urllib.error
import urllib.request
from contextlib import suppress
from pathlib import Path

import psutil
import pytest
import redis
from celery import Celery
from sqlalchemy import text

from engine import embedded
from engine.config import read_settings
from engine.status import gather
from engine.store.database import Database
from tests.running import HORAE, run, start, wait_for

KEPT_RUNNING = {"plan", "dispatch", "ingest", "refresh", "beat"}
EVERY_NAME = {"horae.tick_campaigns", "horae.tick_triggers", "horae.dispatch_due", "horae.fold", "horae.plan_shard"}


@pytest.fixture(scope="module")
def home():
    directory = Path(tempfile.mkdtemp(prefix="horae-up-"))
    yield directory / "home"
    embedded.stop(directory / "home")
    shutil.rmtree(directory)


@pytest.fixture(scope="module")
def up(home):
    """A `horae up` at work."""
    log = home.parent / "up.log"
    process = start(*HORAE, "up", home=home, log=log, HORAE_FLOWER_PORT="5590", HORAE_WORKERS="1")
    try:
        wait_for(lambda: all_up(home), "everything running", 120, log)
        yield process
    finally:
        if process.poll() is None:
            process.kill()
            process.wait(30)


def all_up(home) -> bool:
    return gather(read_settings(home=home)).down == []


def status(home) -> dict:
    done = run(*HORAE, "status", "--json", home=home)
    assert done.returncode in (0, 1), done.stderr
    found: dict = json.loads(done.stdout)
    assert (done.returncode == 0) == (found["down"] == [])
    return found


def programs(up) -> dict[str, psutil.Process]:
    """The main processes of what `horae up` runs, by what they are."""
    found = {}
    for child in psutil.Process(up.pid).children():
        with suppress(psutil.NoSuchProcess):  # it ends at this moment
            name = re.search(r" -n (\w+)@| (beat|flower) ", " ".join(child.cmdline()))
            if name:
                found[name[1] or name[2]] = child
    return found


def flower(home, path: str, password: str | None = None, data: bytes | None = None):
    port = re.findall(r"Flower: http://127.0.0.1:(\d+)", (home.parent / "up.log").read_text())[0]
    secret = (home / "flower-password").read_text() if password is None else password
    token = base64.b64encode(f"horae:{secret}".encode()).decode()
    headers = {"Authorization": f"Basic {token}"}
    request = urllib.request.Request(f"http://127.0.0.1:{port}{path}", data, headers)
    with urllib.request.urlopen(request, timeout=30) as response:
        return json.load(response)


def test_status_of_nothing_says_what_is_down_and_starts_nothing(tmp_path):
    found = status(tmp_path / "home")

    assert {"PostgreSQL", "Redis", "beat"} <= set(found["down"])
    assert found["schema"] == "unknown"
    assert found["store"] is None
    assert not (tmp_path / "home").exists()
    assert "nothing was running" in run(*HORAE, "down", home=tmp_path / "home").stdout


def test_status_says_which_foreign_server_does_not_answer(tmp_path):
    servers = {"HORAE_DATABASE_URL": "postgresql://u:secret@127.0.0.1:1/x", "HORAE_REDIS_URL": "redis://127.0.0.1:1/0"}

    done = run(*HORAE, "status", home=tmp_path, **servers)

    assert done.returncode == 1
    assert re.search(r"PostgreSQL +down, own .*does not answer", done.stdout)
    assert re.search(r"Redis +down, own .*Connection refused", done.stdout)
    assert "secret" not in done.stdout + done.stderr


def test_migrate_brings_the_schema_up_to_date_and_may_be_repeated(home):
    assert run(*HORAE, "migrate", home=home).stdout == "the schema was empty and is up to date now\n"
    assert run(*HORAE, "migrate", home=home).stdout == "the schema was up to date\n"


def test_everything_runs_and_status_shows_it(home, up):
    found = status(home)

    assert found["up"] == up.pid
    assert found["postgres"]["embedded"]
    assert found["redis"]["running"]
    assert found["schema"] == "current"
    assert {queue for worker in found["workers"] for queue in worker["queues"]} == set(found["queues"])
    assert found["beat"]
    assert found["store"]["pushes_due"] == 0
    assert found["store"]["model"] is None
    shown = run(*HORAE, "status", home=home)
    assert shown.returncode == 0
    assert re.search(r"^down +nothing$", shown.stdout, re.MULTILINE)


def test_events_that_wait_are_folded_by_the_ticks(home, up):
    database = Database(embedded.ensure_started(home).database_url)
    with database.begin() as connection:
        user = connection.execute(
            text("INSERT INTO users (external_id, slot) VALUES ('u', 7) RETURNING id")
        ).scalar_one()
        connection.execute(
            text(
                "INSERT INTO unfolded_events (key, slot, user_id, event_type, occurred_at)"
                " VALUES (gen_random_uuid(), 7, :user, 1, now() - interval '1 hour')"
            ),
            {"user": user},
        )

    def profiles() -> int:
        with database.begin() as connection:
            return int(connection.execute(text("SELECT count(*) FROM user_profiles")).scalar_one())

    log = home.parent / "up.log"
    try:
        wait_for(profiles, "folding", log=log)
    finally:
        database.dispose()
    wait_for(lambda: "horae.fold: events 1" in log.read_text(), "a line about the folding", log=log)  # after the commit


def test_the_api_is_open_to_this_machine_until_there_is_a_key_and_says_so(home, up):
    [(url, said)] = re.findall(
        r"^API: (http://127.0.0.1:\d+), (.*)$", (home.parent / "up.log").read_text(), re.MULTILINE
    )
    track = urllib.request.Request(f"{url}/v1/track", b'{"userId": "api-user", "event": "Product Viewed"}')

    def served():
        with suppress(urllib.error.URLError), urllib.request.urlopen(f"{url}/healthz", timeout=5) as response:
            return response.status == 200

    wait_for(served, "the API")
    assert said.startswith("development mode: open to this machine until there is a key")
    with urllib.request.urlopen(track, timeout=30) as response:
        assert json.load(response) == {"success": True}
    database = Database(embedded.ensure_started(home).database_url)
    query = text("SELECT count(*) FROM user_profiles p JOIN users u ON u.id = p.user_id WHERE external_id = 'api-user'")

    def folded() -> bool:
        with database.begin() as connection:
            return bool(connection.execute(query).scalar_one())

    try:
        wait_for(folded, "folding what the API took", 240, home.parent / "up.log")
    finally:
        database.dispose()
    assert run(*HORAE, "admin", "create-key", "shop", home=home).returncode == 0
    with pytest.raises(urllib.error.HTTPError, match="401"):
        urllib.request.urlopen(track, timeout=30)


def test_flower_shows_the_tasks_by_readable_names_and_nothing_but_ids(home, up):
    client = Celery(broker=embedded.ensure_started(home).redis_url, set_as_current=False)
    client.send_task("horae.plan_shard", args=(123, 4), queue="plan")
    client.close()

    def tasks() -> list[dict] | None:
        found = list(flower(home, "/api/tasks?limit=1000").values())
        return found if {task["name"] for task in found if task["state"] == "SUCCESS"} >= EVERY_NAME else None

    shown = wait_for(tasks, "all tasks in Flower")
    dispatched = next(t for t in shown if (t["name"], t["state"]) == ("horae.dispatch_due", "SUCCESS"))
    assert flower(home, f"/api/task/info/{dispatched['uuid']}")["worker"].startswith("dispatch@")
    assert dispatched["args"] == "()"
    arguments = {task["name"]: task["args"] for task in shown}
    assert arguments["horae.plan_shard"] == "(123, 4)"
    assert all(re.fullmatch(r"\((\d+(, ?|,?\)))*\)?", task["args"]) for task in shown)
    assert {task["kwargs"] for task in shown} == {"{}"}
    names = {worker.name for worker in gather(read_settings(home=home)).workers}
    wait_for(lambda: set(flower(home, "/api/workers?refresh=1")) == names, f"{names} in Flower")


def test_flower_wants_the_password_which_its_owner_alone_may_read(home, up):
    with pytest.raises(urllib.error.HTTPError, match="401"):
        flower(home, "/api/tasks", password="wrong")

    assert stat.S_IMODE((home / "flower-password").stat().st_mode) == 0o600
    password = (home / "flower-password").read_text()
    assert not any(password in " ".join(process.cmdline()) for process in psutil.Process(up.pid).children())


@pytest.mark.parametrize("path", ["/api/task/async-apply/horae.train", "/api/worker/shutdown/all"])
def test_flower_shows_and_changes_nothing(home, up, path):
    with pytest.raises(urllib.error.HTTPError, match="403"):
        flower(home, path, data=b"{}")


def test_a_second_up_on_the_same_directory_is_refused(home, up):
    done = run(*HORAE, "up", home=home)

    assert done.returncode == 2
    assert f"already running on {home} (process {up.pid})" in done.stderr


def test_a_program_that_dies_is_started_again_and_so_are_the_servers(home, up):
    before = programs(up)
    assert set(before) == KEPT_RUNNING | {"flower"}
    before["beat"].kill()
    psutil.Process(int((home / "valkey" / "valkey.pid").read_text())).kill()

    wait_for(lambda: programs(up).get("beat", before["beat"]) != before["beat"], "a new beat")
    wait_for(lambda: embedded.running(home), "a new Valkey")

    assert "beat was ended by SIGKILL; starting it again in 1 s" in (home.parent / "up.log").read_text()
    wait_for(lambda: all_up(home), "everything running again")


def test_interrupting_it_stops_everything_but_the_servers_and_leaves_no_process(home, up):
    left = psutil.Process(up.pid).children(recursive=True)

    up.send_signal(signal.SIGINT)

    assert up.wait(60) == 0
    psutil.wait_procs(left, 5)
    assert [process for process in left if process.is_running()] == []
    assert embedded.running(home) is not None
    assert gather(read_settings(home=home)).up is None


def test_a_killed_up_takes_its_programs_along_and_the_next_one_starts(home):
    log = home.parent / "killed.log"
    killed = start(*HORAE, "up", home=home, log=log, HORAE_FLOWER_PORT="0", HORAE_WORKERS="1")
    wait_for(lambda: set(programs(killed)) == KEPT_RUNNING, "starting", log=log)
    left = psutil.Process(killed.pid).children(recursive=True)
    killed.kill()
    killed.wait(10)
    _, alive = psutil.wait_procs(left, 60)
    assert alive == []

    following = start(*HORAE, "up", home=home, log=log, HORAE_FLOWER_PORT="0", HORAE_WORKERS="1")
    wait_for(lambda: set(programs(following)) == KEPT_RUNNING, "starting again", log=log)
    down = run(*HORAE, "down", home=home)

    assert down.stdout == f"stopped: horae up (process {following.pid}), Valkey, PostgreSQL\n"
    assert following.wait(60) == 0
    assert embedded.running(home) is None


def test_down_leaves_servers_alone_that_are_not_its_own(home, redis_url, tmp_path):
    run(*HORAE, "down", home=tmp_path, HORAE_REDIS_URL=redis_url)

    client = redis.Redis.from_url(redis_url)
    assert client.ping()
    client.close()
