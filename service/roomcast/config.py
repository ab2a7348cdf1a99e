"""Settings: read once from the environment (`ROOMCAST_...`), immutable, passed by argument."""

from __future__ import annotations

import os
import re
import socket
import tomllib
from difflib import get_close_matches
from pathlib import Path
from typing import Annotated, Literal, Self

from annotated_types import Len
from pydantic import Field, TypeAdapter, ValidationError, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from roomcast.bodies import faults
from roomcast.config_types import (
    API_KEY_LENGTH,
    SECRET_LENGTH,
    ApiKey,
    HookSettings,
    HttpUrl,
    Origins,
    RedisUrlText,
    RootPath,
    Secret,
    WebhookEvents,
    is_set_by_kubernetes,
    split_names,
)
from roomcast.model.namespaces import DEFAULTS, Namespace, Namespaces
from roomcast.redis_access.url import Shape, masked_url, parse_redis_url

ENV_PREFIX = "ROOMCAST_"
# The table of channels without a namespace.
_DEFAULT = "default"


class ConfigError(Exception):
    """Invalid settings; the text names each with its fault."""


class Settings(BaseSettings, HookSettings):
    """All settings. The environment variable of a field is `ROOMCAST_` and its name in capitals."""

    model_config = SettingsConfigDict(env_prefix=ENV_PREFIX, frozen=True, extra="ignore", env_ignore_empty=True)

    redis_url: Annotated[
        RedisUrlText,
        Field(description="URL of Redis or Valkey: redis://[[user]:password@]host[:port][/db]; more in docs/redis.md"),
    ] = "redis://127.0.0.1:6379/0"
    prefix: Annotated[
        str,
        Len(max_length=64),
        Field(description="prefix of every Redis key and topic, so that several deployments can share one server"),
    ] = "roomcast:"
    root_path: Annotated[
        RootPath,
        Field(description="path under which a proxy serves the nodes, such as /rt; empty: none"),
    ] = ""
    # Before the keys: they are validated by it.
    insecure_short_keys: Annotated[
        bool, Field(description="development only: accept an API key and secrets that are short enough to be guessed")
    ] = False
    insecure_api: Annotated[
        bool, Field(description="development only: the server API needs no key, so everyone may call it")
    ] = False
    api_key: Annotated[
        ApiKey | None,
        Field(description="key that services send as X-API-Key, at least 16 characters; without it the API is off"),
    ] = None

    secret: Annotated[
        Secret | None, Field(description="secret that signs clients' tokens (HMAC), at least 32 characters")
    ] = None
    previous_secret: Annotated[
        Secret | None, Field(description="the old secret during a rotation: tokens that it signed stay valid")
    ] = None
    public_key_file: Annotated[
        Path | None, Field(description="PEM file with the token issuer's public key (RSA, EC, Ed25519)")
    ] = None
    jwks_url: Annotated[
        HttpUrl | None,
        Len(max_length=2048),
        Field(description="URL of the token issuer's public keys (JWKS), for example of an identity provider"),
    ] = None
    token_audience: Annotated[
        str | None,
        Len(max_length=256),
        Field(description="required `aud` claim; unset: a token that has one is rejected"),
    ] = None
    token_issuer: Annotated[
        str | None, Len(max_length=256), Field(description="required `iss` claim; unset: any issuer")
    ] = None
    token_leeway_s: Annotated[
        float, Field(ge=0, le=300, description="tolerated clock difference to the token issuer")
    ] = 5.0
    anonymous: Annotated[
        bool, Field(description="accept clients without a token as anonymous; they may do what ANYONE may")
    ] = False
    insecure: Annotated[
        bool, Field(description="development only: no client is authenticated, each chooses its own user")
    ] = False
    allowed_origins: Annotated[
        Origins,
        Field(description="origins whose pages may connect: https://app.example.com,https://b.example.com; empty: any"),
    ] = ""
    channel_limit: Annotated[
        int, Field(ge=1, le=10_000, description="maximum number of channels to which one connection may be subscribed")
    ] = 128

    max_message_bytes: Annotated[
        int, Field(ge=1, le=16 * 1024 * 1024, description="maximum size of a message of a client or a service")
    ] = 64 * 1024
    max_unsent_bytes: Annotated[
        int, Field(ge=16 * 1024, description="maximum number of unsent bytes before a slow client is closed (3008)")
    ] = 1024 * 1024

    flush_interval_ms: Annotated[
        float,
        Field(
            ge=0, le=1000, description="longest pause between two writes under load, so that one carries more; 0: none"
        ),
    ] = 10.0
    compression: Annotated[
        bool,
        Field(description="offer permessage-deflate without context takeover: a message is compressed once for all"),
    ] = False

    ping_interval_s: Annotated[
        float, Field(gt=0, le=3600, description="interval between two pings of a connection")
    ] = 25.0
    ping_timeout_s: Annotated[
        float, Field(gt=0, le=3600, description="timeout for the reply to a ping; then the connection is closed")
    ] = 10.0
    keep_alive_s: Annotated[
        int,
        Field(ge=1, le=3600, description="how long an idle HTTP connection is kept; longer than balancers keep theirs"),
    ] = 75
    redis_timeout_s: Annotated[
        float, Field(gt=0, le=60, description="timeout for one reply from Redis, and for connecting to it")
    ] = 5.0
    shutdown_timeout_s: Annotated[
        int, Field(ge=1, le=600, description="how long a node that shuts down waits for its clients to disconnect")
    ] = 10

    namespaces_file: Annotated[
        Path | None,
        Field(description="TOML file with more namespaces, or replacements of default ones (docs/namespaces.md)"),
    ] = None
    default_namespace: Annotated[
        bool | None,
        Field(description="accept channels without a namespace, such as `news`; unset: if the file has [default]"),
    ] = None

    metrics_interval_s: Annotated[
        float, Field(ge=0.1, le=3600, description="interval between two samples of the metrics worker")
    ] = 2.0
    worker_name: Annotated[
        str,
        Len(min_length=1, max_length=128),
        Field(description="name in a worker's health key; give two workers on one host different names"),
    ] = Field(default_factory=socket.gethostname)

    log_level: Annotated[
        Literal["debug", "info", "warning", "error"], Field(description="lowest level that is logged")
    ] = "info"
    log_format: Annotated[
        Literal["json", "console"], Field(description="json: one object per line; console: readable text")
    ] = "json"

    # Webhooks: docs/applications.md.
    webhook_url: Annotated[
        HttpUrl | None, Field(description="URL to which `roomcast worker webhooks` posts events")
    ] = None
    webhook_secret: Annotated[
        Secret | None,
        Field(description="secret that signs webhooks, at least 32 characters; needed with a webhook_url"),
    ] = None
    webhook_events: Annotated[
        WebhookEvents, Field(description="events that are posted, of: connect,disconnect,occupied,vacated")
    ] = "connect,disconnect,occupied,vacated"

    @model_validator(mode="before")
    @classmethod
    def _without_line_ends(cls, values: dict[str, object]) -> dict[str, object]:
        """Return the values without the line ends that files of secrets and `$(cat ...)` of other systems leave."""
        return {name: value.rstrip("\r\n") if isinstance(value, str) else value for name, value in values.items()}

    @model_validator(mode="after")
    def _a_message_fits(self) -> Self:
        if self.max_unsent_bytes < 2 * self.max_message_bytes:
            raise ValueError("ROOMCAST_MAX_UNSENT_BYTES must be at least twice ROOMCAST_MAX_MESSAGE_BYTES")
        return self

    @model_validator(mode="after")
    def _a_channel_is_in_one_slot(self) -> Self:
        # In a cluster the braces of a key name its slot: a channel's keys have its whole topic in them.
        if set("{}") & set(self.prefix) and parse_redis_url(self.redis_url).shape is Shape.CLUSTER:
            raise ValueError(
                "ROOMCAST_PREFIX has no braces in a cluster, where those of the channels' keys name the slot"
            )
        return self

    @model_validator(mode="after")
    def _clients_are_checked_or_not(self) -> Self:
        names = ("secret", "previous_secret", "public_key_file", "jwks_url")
        named = [_variable(name) for name in names if getattr(self, name) is not None]
        if self.insecure and named:
            raise ValueError(
                f"{named[0]} is for checking clients, and ROOMCAST_INSECURE checks none: unset one of them"
            )
        if self.previous_secret and not self.secret:
            raise ValueError("ROOMCAST_PREVIOUS_SECRET needs ROOMCAST_SECRET, the one that follows it")
        return self

    @model_validator(mode="after")
    def _the_application_is_complete(self) -> Self:
        if (self.proxy_url is None) != (not split_names(self.proxy_events)):
            raise ValueError("ROOMCAST_PROXY_URL and ROOMCAST_PROXY_EVENTS are set together or not at all")
        if self.webhook_url is not None and self.webhook_secret is None:
            raise ValueError(
                "ROOMCAST_WEBHOOK_URL needs a ROOMCAST_WEBHOOK_SECRET; make one with: openssl rand -hex 32"
            )
        return self


def require_auth(settings: Settings) -> None:
    """Check that a node can validate tokens, or need not. Workers have no clients and need no key.

    Raises: ConfigError that names the missing setting.
    """
    if not (settings.insecure or settings.secret or settings.public_key_file or settings.jwks_url):
        raise ConfigError(
            f"{ENV_PREFIX}SECRET is not set, so no client's token could be checked; give every node the same one, "
            f"made with: openssl rand -hex 32; or set {ENV_PREFIX}INSECURE=true to check nobody"
        )


def read_namespaces(settings: Settings) -> Namespaces:
    """Return the default namespaces and those of the file, which replace default ones of the same name.

    Raises: ConfigError that names the invalid namespace and option.
    """
    found: dict[str, Namespace] = {}
    if settings.namespaces_file is not None:
        found = _namespaces_of(settings.namespaces_file)
    default = found.pop(_DEFAULT, None)
    is_on = default is not None if settings.default_namespace is None else settings.default_namespace
    try:
        return Namespaces({**DEFAULTS, **found}, (default or DEFAULTS["room"]) if is_on else None)
    except ValueError as exc:
        raise ConfigError(f"{settings.namespaces_file}: {exc}") from None


def _namespaces_of(file: Path) -> dict[str, Namespace]:
    try:
        tables = tomllib.loads(file.read_text(encoding="utf-8-sig"))
        found: dict[str, Namespace] = TypeAdapter(dict[str, Namespace]).validate_python(tables)
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as exc:
        raise ConfigError(f"{ENV_PREFIX}NAMESPACES_FILE: {exc}") from None
    except ValidationError as exc:
        lines = [f"[{place}] {message.removeprefix('Value error, ')}" for place, message in faults(exc)]
        raise ConfigError(f"{file}: {'; '.join(lines)}") from None
    for name in found:
        if not re.fullmatch("[-a-zA-Z0-9_.]{2,}", name):  # as Centrifugo's
            raise ConfigError(f"{file}: [{name}]: a name has 2 or more of a-z, A-Z, 0-9, _, - and .")
        if name == "node":
            raise ConfigError(f"{file}: [{name}]: nodes use this name themselves")
    return found


def masked(settings: Settings) -> dict[str, str]:
    """Return every setting by its environment variable, as text, with secrets masked."""
    values = {_variable(name): str(value) for name, value in settings if value is not None}
    values[f"{ENV_PREFIX}REDIS_URL"] = masked_url(settings.redis_url)
    return values


def short_keys(settings: Settings) -> list[str]:
    """Return the variables with a key or a secret that is short enough to be guessed."""
    lengths = {
        "api_key": API_KEY_LENGTH,
        **dict.fromkeys(("secret", "previous_secret", "webhook_secret"), SECRET_LENGTH),
    }
    keys = {name: getattr(settings, name) for name in lengths}
    short = [name for name, key in keys.items() if key is not None and len(key.get_secret_value()) < lengths[name]]
    return [_variable(name) for name in short]


def unknown_variables() -> list[str]:
    """Return the `ROOMCAST_...` variables of the environment that are not settings, such as misspelt ones."""
    known = _variables()
    names = [name for name, value in os.environ.items() if not is_set_by_kubernetes(name, value)]
    return sorted(name for name in names if name.upper().startswith(ENV_PREFIX) and name.upper() not in known)


def nearest_variable(name: str) -> str | None:
    """Return the variable of a setting whose name is most like this one; None if none is."""
    return next(iter(get_close_matches(name.upper(), _variables(), n=1, cutoff=0.75)), None)


def _variable(name: str) -> str:
    return f"{ENV_PREFIX}{name.upper()}"


def _variables() -> list[str]:
    return [_variable(name) for name in Settings.model_fields]


def read_settings() -> Settings:
    """Return the settings of the environment. Raises: ConfigError that names invalid variables, not their values."""
    try:
        return Settings()
    except ValidationError as exc:
        lines = [
            (f"{_variable(name)}: " if (name := place.partition(".")[0]) else "")
            + message.removeprefix("Value error, ")
            for place, message in faults(exc)
        ]
        raise ConfigError("; ".join(lines)) from None
