"""Settings: the only reader of the environment.

Every setting has the prefix `HORAE_`. Where no URL is given, Horae runs its own PostgreSQL and Valkey in `HORAE_HOME`.
"""

from __future__ import annotations

from functools import cached_property
from pathlib import Path
from typing import Self

from pydantic import Field, SecretStr, ValidationError, field_validator, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from engine.errors import BadInput

QUEUES = ("plan", "dispatch", "ingest", "refresh", "train", "upkeep")
"""Celery's queues; each needs a worker."""


class Settings(BaseSettings):
    """What a deployment decides; frozen once read."""

    model_config = SettingsConfigDict(env_prefix="HORAE_", frozen=True, extra="ignore")

    home: Path = Field(Path(".horae"), description="Data directory: embedded servers, journals, logs.")
    database_url: str | None = Field(None, description="PostgreSQL 14+; unset: embedded. postgresql://user:pw@host/db")
    redis_url: str | None = Field(None, description="Redis 6.2+ or Valkey; unset: embedded.")
    broker_url: str | None = Field(None, description="Celery's broker, if apart from HORAE_REDIS_URL.")
    caps_url: str | None = Field(None, description="The caps' Redis, if apart from HORAE_REDIS_URL.")
    log_level: str = Field("INFO", description="DEBUG, INFO, WARNING or ERROR.")

    journal: Path | None = Field(None, description="The log gateway's journal; default HORAE_HOME/journal.jsonl.")
    webhook_url: str | None = Field(None, description="Where the webhook gateway posts.")
    webhook_secret: SecretStr | None = Field(None, description="Standard Webhooks secret, whsec_….")
    webhook_allow_private: bool = Field(False, description="Let the webhook gateway reach private addresses.")

    fcm_credentials: Path | None = Field(None, description="Service account key (JSON) of the Firebase project.")
    fcm_validate_only: bool = Field(False, description="Let FCM check every message and deliver none.")
    fcm_url: str = Field("https://fcm.googleapis.com", description="FCM's address.")
    apns_key: Path | None = Field(None, description="Apple's authentication key, a .p8 file.")
    apns_key_id: str | None = Field(None, description="Its key id, 10 characters.")
    apns_team_id: str | None = Field(None, description="The team's id, 10 characters.")
    apns_topic: str | None = Field(None, description="The app's bundle id.")
    apns_url: str = Field(
        "https://api.push.apple.com",
        description="APNs' address; development builds: https://api.sandbox.push.apple.com.",
    )
    webpush_key: Path | None = Field(None, description="VAPID private key (P-256, PEM).")
    webpush_subject: str | None = Field(None, description="How push services reach you: mailto:… or https://…")
    webpush_hosts: str = Field(
        "fcm.googleapis.com,.push.services.mozilla.com,.push.apple.com,.notify.windows.com",
        description="Push services that browsers may name: hosts, or .domains with all below them.",
    )
    provider_ca: Path | None = Field(
        None, description="PEM certificates that FCM, APNs and Web Push are trusted by too."
    )

    flower_port: int = Field(5555, ge=0, le=65535, description="Flower's port under `horae up`; 0: no Flower.")
    flower_password: SecretStr | None = Field(None, description="Flower's password (user: horae).")
    flower_read_only: bool = Field(True, description="Whether Flower shows everything and changes nothing.")
    flower_url_prefix: str = Field("", description="The path under which a proxy serves Flower, such as flower.")
    flower_url: str | None = Field(
        None, pattern="^https?://", description="Where browsers find Flower, where that is another host than the API's."
    )

    api_host: str = Field("127.0.0.1", description="Where the API listens.")
    api_proxies: str = Field(
        "", description="Proxies (addresses or networks, between commas) whose X-Forwarded-For is believed."
    )
    api_port: int = Field(8000, ge=0, le=65535, description="The API's port; under `horae up` 0: no API.")
    api_rate: int = Field(2_000, ge=1, description="Messages a second that a key may send in the long run.")
    api_concurrency: int = Field(64, ge=1, le=4096, description="Requests that a process works on at once; more: 503.")

    api_origins: str = Field(
        "", description="Web pages that may send events: https://shop.example, …, or *; unset: none. Keys apply still."
    )

    workers: int = Field(2, ge=1, le=64, description="Planning processes under `horae up`.")
    planning_lead_minutes: int = Field(30, ge=1, description="How long before its first window a run plans.")
    shard_slots: int = Field(64, ge=1, le=1024, description="Slots (of 1,024) per planning shard.")

    @field_validator("log_level")
    @classmethod
    def _known_level(cls, value: str) -> str:
        if value.upper() not in {"DEBUG", "INFO", "WARNING", "ERROR"}:
            raise ValueError("must be DEBUG, INFO, WARNING or ERROR")
        return value.upper()

    @field_validator("database_url")
    @classmethod
    def _postgres_only(cls, value: str | None) -> str | None:
        if value is not None and not value.startswith(("postgresql://", "postgres://", "postgresql+psycopg://")):
            raise ValueError("must be a postgresql:// URL; Horae speaks one database dialect")
        return value

    @model_validator(mode="after")
    def _absolute_home(self) -> Self:
        object.__setattr__(self, "home", self.home.expanduser().absolute())
        return self

    @cached_property
    def journal_path(self) -> Path:
        """Where the log gateway appends its JSON Lines."""
        return self.journal or self.home / "journal.jsonl"


def read_settings(**overrides: object) -> Settings:
    """Settings from the environment, with `overrides` on top.

    Raises BadInput naming the variable and what is wrong with it.
    """
    try:
        return Settings(**overrides)  # type: ignore[arg-type]
    except ValidationError as error:
        first = error.errors()[0]
        name = "HORAE_" + ".".join(str(part) for part in first["loc"]).upper()
        raise BadInput(f"{name}: {first['msg'].removeprefix('Value error, ')}") from error
