"""compose.yaml says what this code understands."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml

from engine.config import QUEUES, Settings
from tasks.app import Configuration

PROJECT = Path(__file__).resolve().parents[2]
TEXT = (PROJECT / "compose.yaml").read_text()
COMPOSE = yaml.safe_load(TEXT)
SERVICES = COMPOSE["services"]
WORKERS = {name: service for name, service in SERVICES.items() if " worker " in str(service.get("command"))}


def queues_of(service: dict) -> list[str]:
    return str(re.findall(r"-Q (\S+)", service["command"])[0]).split(",")


def test_every_variable_is_a_setting():
    named = set(re.findall(r"HORAE_([A-Z_]+)", TEXT))

    assert named <= {name.upper() for name in Settings.model_fields}


def test_every_setting_can_be_given_but_for_those_that_the_file_decides():
    named = set(re.findall(r"HORAE_([A-Z_]+)", TEXT))
    decided = {"JOURNAL", "API_HOST", "API_PORT", "FLOWER_PORT", "FLOWER_READ_ONLY", "WORKERS"}

    assert {name.upper() for name in Settings.model_fields} - named == decided


def test_every_queue_has_one_worker_and_every_worker_known_queues():
    served = [queue for service in WORKERS.values() for queue in queues_of(service)]

    assert sorted(served) == sorted(QUEUES)


def test_the_tasks_go_to_queues_that_are_served():
    assert {route["queue"] for route in Configuration.task_routes.values()} == set(QUEUES)
    assert set(Configuration.task_queues) == set(QUEUES)


def test_workers_neither_gossip_nor_mingle_and_report_their_tasks():
    for service in WORKERS.values():
        assert {"-E", "--without-gossip", "--without-mingle"} <= set(service["command"].split())


def test_every_service_that_is_named_exists_and_tells_whether_it_is_healthy():
    for name, service in SERVICES.items():
        assert set(service.get("depends_on", ())) <= set(SERVICES), name
        assert "healthcheck" in service or name == "migrate", name


@pytest.mark.parametrize("name", ["redis", "caps"])
def test_nothing_is_evicted(name):
    assert "--maxmemory-policy noeviction" in SERVICES[name]["command"]
    assert "--appendonly yes" in SERVICES[name]["command"]


def test_the_image_is_made_of_what_the_project_has():
    dockerfile = SERVICES["plan"]["build"]["dockerfile_inline"]
    copied = [name for line in re.findall(r"COPY (.+) \S+", dockerfile) for name in line.split()]

    assert copied
    assert [name for name in copied if not (PROJECT / name).exists()] == []


def test_passwords_must_be_given():
    assert "${POSTGRES_PASSWORD:?" in SERVICES["postgres"]["environment"]["POSTGRES_PASSWORD"]
    assert "${HORAE_FLOWER_PASSWORD:?" in SERVICES["flower"]["environment"]["FLOWER_BASIC_AUTH"]
