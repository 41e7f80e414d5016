"""Command: metrics for Prometheus (`horae metrics`)."""

from __future__ import annotations

import sys

import typer

from engine.cli.campaigns import opened


def register(app: typer.Typer) -> None:
    """Add this module's commands to `app`."""
    app.command("metrics")(metrics)


def metrics() -> None:
    """Print what Prometheus scrapes: due pushes and how late, outcomes, lateness, unknown, cap denials, queues, ticks.

    For a node exporter's text file: horae metrics > horae.prom.tmp && mv horae.prom.tmp horae.prom
    """
    from engine.clock import business_now
    from engine.metrics import exposition
    from engine.runtime import redis_client

    with opened() as runtime:
        with runtime.database.begin() as connection:
            now = business_now(connection)
        broker = redis_client(runtime.broker_url)
        try:
            sys.stdout.write(exposition(runtime.database, broker, now).decode())
        finally:
            broker.close()
