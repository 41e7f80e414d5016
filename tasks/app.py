"""The Celery app: `celery -A tasks.app worker`, `celery -A tasks.app beat`, `celery -A tasks.app flower`.

PostgreSQL is the queue and the truth; a message is a wake-up that carries ids. Losing one costs the time to the next
tick, receiving one twice costs a look into a table. Hence no ETA, no countdown, no chord, no result backend.

Start workers with `--without-gossip --without-mingle` (nothing here uses either; their queues have filled a Redis) and
with `-E`, so that Flower sees the tasks. Where no broker is configured, the first use of the settings starts the
embedded servers; importing this module opens nothing.
"""

from __future__ import annotations

from functools import cached_property
from typing import Any

from celery import Celery
from celery.schedules import crontab
from celery.signals import (
    after_setup_logger,
    task_failure,
    task_prerun,
    task_success,
    worker_init,
    worker_process_shutdown,
)

from engine.config import QUEUES, read_settings
from engine.errors import HoraeError
from engine.planning import wake
from tasks.logs import note_tick, quiet_routine, say_failed, say_succeeded
from tasks.runtime import begun, close_runtime, prepare_pool

VISIBILITY_SECONDS = 900
"""Redis hands a message out again after this long: longer than any task but training, which guards itself."""


def _every(seconds: float, task: str) -> dict[str, Any]:
    """A beat entry. Wake-ups that a busy worker did not get to vanish: the next one finds the same work. Half a minute
    leaves room for clocks of different hosts that disagree."""
    return {"task": task, "schedule": seconds, "options": {"expires": max(30.0, seconds)}}


class Configuration:
    """Celery's settings, each with its reason; read when Celery first asks, not at import."""

    # --- broker ---
    @cached_property
    def broker_url(self) -> str:
        """HORAE_BROKER_URL, else Redis' URL; starts the embedded servers where none is configured."""
        from engine.runtime import broker_url

        return broker_url(read_settings())

    broker_transport_options = {
        "visibility_timeout": VISIBILITY_SECONDS,
        # The message of a killed worker comes back within visibility_timeout + 5 s, not + 100 s (kombu's defaults).
        "unacked_restore_interval": 5,
        "unacked_restore_throttle": 1,
        "socket_timeout": 30,  # a half-open connection must not hang a worker
        "socket_connect_timeout": 5,
        "socket_keepalive": True,
        "health_check_interval": 25,
    }
    broker_connection_retry_on_startup = True  # a worker started before Redis waits for it
    broker_pool_acquire_timeout = 10  # publishing gives up instead of blocking for ever
    task_publish_retry_policy = {"max_retries": 2, "interval_start": 0, "interval_step": 0.2, "interval_max": 0.5}

    # --- messages ---
    task_serializer = "json"
    accept_content = ["json"]  # never pickle: whoever writes to Redis would run code here
    result_accept_content = ["json"]
    result_backend = None  # the rows in PostgreSQL are the results
    task_ignore_result = True
    task_routes = {task: {"queue": queue} for task, queue in wake.QUEUES.items()}
    task_queues = {name: {"exchange": name, "routing_key": name} for name in QUEUES}
    task_default_queue = "upkeep"
    task_create_missing_queues = False  # a misspelt -Q is an error, not a queue that nothing is sent to

    # --- execution ---
    task_acks_late = True  # a killed worker's message comes back
    task_reject_on_worker_lost = False  # a task that kills its worker must not come back for ever; leases in SQL do
    task_retry_on_worker_lost = False
    task_annotations = {"*": {"throws": (HoraeError,)}}  # said in one line, by tasks.logs
    task_soft_time_limit = 780  # below the visibility timeout: a task never runs beside its own redelivery
    task_time_limit = 840
    worker_prefetch_multiplier = 1
    worker_disable_prefetch = True  # what is taken from Redis is being worked on; the rest stays visible and can expire

    # --- processes ---
    worker_pool_start_method = "spawn"  # XGBoost after fork hangs in libgomp
    worker_proc_alive_timeout = 60  # a spawned child imports numpy, pandas and xgboost first
    worker_max_tasks_per_child = 20_000  # ticks are small and come each second
    worker_max_memory_per_child = 1_000_000  # KiB; training leaves its memory to the system this way
    worker_soft_shutdown_timeout = 30  # SIGQUIT: what is under way may finish first
    worker_enable_soft_shutdown_on_idle = True
    worker_cancel_long_running_tasks_on_connection_loss = True  # Redis gives the task to another worker anyway

    # --- being watched ---
    worker_send_task_events = True  # as -E: Flower sees tasks start and end
    task_send_sent_event = True  # … and those that wait
    worker_redirect_stdouts_level = "INFO"
    worker_log_format = "%(asctime)s %(levelname)s %(name)s: %(message)s"
    worker_task_log_format = "%(asctime)s %(levelname)s %(task_name)s[%(task_id)s] %(message)s"

    # --- beat ---
    timezone = (
        "UTC"  # crontabs in a zone with DST lose an hour a year (celery#10107); local time is the engine's matter
    )
    enable_utc = True
    beat_scheduler = "celery.beat:Scheduler"  # no schedule file: nothing to corrupt, and restarting loses no tick
    beat_max_loop_interval = 10
    beat_enable_remote_control = True  # `celery inspect ping` reaches beat as well
    beat_schedule = {
        "tick_campaigns": _every(5, "horae.tick_campaigns"),
        "tick_triggers": _every(2, "horae.tick_triggers"),
        "refresh": _every(2, "horae.refresh"),
        "dispatch_due": _every(1, "horae.dispatch_due"),
        "fold": _every(1, "horae.fold"),
        "upkeep": _every(60, "horae.upkeep"),
        # Asked each hour, done once a day: a beat or worker that was down at one fixed hour costs no day.
        "train": {"task": "horae.train", "schedule": crontab(minute="17"), "options": {"expires": 3600.0}},
        # Likewise, done once in four hours.
        "warm_update": {"task": "horae.warm_update", "schedule": crontab(minute="47"), "options": {"expires": 3600.0}},
    }

    imports = ("tasks.planning", "tasks.delivery", "tasks.ingest", "tasks.learning", "tasks.upkeep")


app = Celery("horae")
app.config_from_object(Configuration())

after_setup_logger.connect(quiet_routine)
task_prerun.connect(begun)
task_success.connect(say_succeeded)
task_success.connect(note_tick)
task_failure.connect(say_failed)
worker_init.connect(prepare_pool)
worker_process_shutdown.connect(close_runtime)
