"""Settings: read once from the environment (`ROOMCAST_...`), immutable, passed by argument."""

from __future__ import annotations

import os
import re
import socket
import tomllib
from pathlib import Path
from typing import Annotated, Literal, Self

from annotated_types import Len
from pydantic import Field, TypeAdapter, ValidationError, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from roomcast.config_types import (
    ApiKey,
    BaseUrl,
    Handler,
    HeaderNames,
    HttpUrl,
    Origins,
    ProxyEvents,
    RedisUrlText,
    Secret,
    WebhookEvents,
    split_names,
)
from roomcast.model.namespaces import DEFAULTS, Namespace, Namespaces
from roomcast.redis_access.url import masked_url

ENV_PREFIX = "ROOMCAST_"


class ConfigError(Exception):
    """A setting that cannot be used; the text names each one with what is wrong."""


class Settings(BaseSettings):
    """Everything that can be set. The name of a field in capitals, after `ROOMCAST_`, is its environment variable."""

    model_config = SettingsConfigDict(env_prefix=ENV_PREFIX, frozen=True, extra="ignore", env_ignore_empty=True)

    redis_url: Annotated[
        RedisUrlText,
        Field(description="Redis or Valkey: redis://[[user]:password@]host[:port][/db], and others (docs/redis.md)"),
    ] = "redis://127.0.0.1:6379/0"
    prefix: Annotated[
        str,
        Len(max_length=64),
        Field(description="in front of every Redis key and topic, so that deployments can share a server"),
    ] = "roomcast:"
    api_key: Annotated[
        ApiKey | None,
        Field(description="X-API-Key of the server API, at least 16 characters; the API is off without one"),
    ] = None

    secret: Annotated[
        Secret | None,
        Field(description="key that clients' tokens are signed with (HMAC), at least 32 characters"),
    ] = None
    previous_secret: Annotated[
        Secret | None,
        Field(description="the secret before this one: tokens that it signed are taken while clients get new ones"),
    ] = None
    public_key_file: Annotated[
        Path | None,
        Field(description="PEM file with the public key (RSA, EC, Ed25519) of who signs tokens"),
    ] = None
    jwks_url: Annotated[
        HttpUrl | None,
        Len(max_length=2048),
        Field(description="URL of the public keys (JWKS) of who signs tokens, such as an identity provider"),
    ] = None
    token_audience: Annotated[
        str | None, Len(max_length=256), Field(description="what a token must name as `aud`; without it, none may")
    ] = None
    token_issuer: Annotated[
        str | None, Len(max_length=256), Field(description="what a token must name as `iss`; without it, it may be any")
    ] = None
    token_leeway_s: Annotated[
        float, Field(ge=0, le=300, description="how far the clock of who signs tokens may be from ours")
    ] = 5.0
    anonymous: Annotated[
        bool, Field(description="let clients without a token in, as nobody: what ANYONE may, they may")
    ] = False
    insecure: Annotated[
        bool, Field(description="check no client at all: each is who it says, and needs no token; for trying")
    ] = False
    allowed_origins: Annotated[
        Origins,
        Field(description="sites whose pages may connect: https://app.example.com,https://b.example.com; empty: all"),
    ] = ""
    channel_limit: Annotated[
        int, Field(ge=1, le=10_000, description="how many channels one connection may be subscribed to")
    ] = 128

    max_message_bytes: Annotated[
        int, Field(ge=1, le=16 * 1024 * 1024, description="largest message of a client or of another service")
    ] = 64 * 1024
    max_unsent_bytes: Annotated[
        int,
        Field(ge=16 * 1024, description="how far a client may fall behind before it is closed as slow (3008)"),
    ] = 1024 * 1024

    flush_interval_ms: Annotated[
        float,
        Field(ge=0, le=1000, description="longest pause between two writes under load, to join more; 0: nothing waits"),
    ] = 10.0
    compression: Annotated[
        bool,
        Field(description="offer permessage-deflate: a message is deflated once for all, without a context per client"),
    ] = False

    ping_interval_s: Annotated[
        float, Field(gt=0, le=3600, description="how often a connection is asked whether it lives")
    ] = 25.0
    ping_timeout_s: Annotated[
        float, Field(gt=0, le=3600, description="how long the answer may take before the connection is closed")
    ] = 10.0
    redis_timeout_s: Annotated[
        float, Field(gt=0, le=60, description="longest wait for one answer of Redis, or to connect to it")
    ] = 5.0
    shutdown_timeout_s: Annotated[
        int, Field(ge=1, le=600, description="how long a node that ends waits for its clients to be gone")
    ] = 10

    namespaces_file: Annotated[
        Path | None,
        Field(description="TOML file with namespaces beside or instead of the default ones (docs/namespaces.md)"),
    ] = None

    metrics_interval_s: Annotated[
        float, Field(ge=0.1, le=3600, description="one sample of the metrics worker each so many seconds")
    ] = 2.0
    worker_name: Annotated[
        str,
        Len(min_length=1, max_length=128),
        Field(description="names a worker's health key; two workers on one host want two names"),
    ] = Field(default_factory=socket.gethostname)

    log_level: Annotated[
        Literal["debug", "info", "warning", "error"], Field(description="least level that is logged")
    ] = "info"
    log_format: Annotated[
        Literal["json", "console"], Field(description="json: one object a line; console: for people")
    ] = "json"

    # How the application takes part: docs/applications.md.
    on_connect: Annotated[Handler, Field(description="handler in Python: who may connect, and as whom")] = None
    on_subscribe: Annotated[Handler, Field(description="handler in Python: who may subscribe")] = None
    on_publish: Annotated[Handler, Field(description="handler in Python: who may publish, and what")] = None
    on_rpc: Annotated[Handler, Field(description="handler in Python: clients' procedure calls")] = None
    on_refresh: Annotated[Handler, Field(description="handler in Python: connections that expire")] = None
    on_sub_refresh: Annotated[Handler, Field(description="handler in Python: subscriptions that expire")] = None
    on_disconnect: Annotated[Handler, Field(description="handler in Python: told of clients that are gone")] = None
    hook_timeout_s: Annotated[
        float, Field(gt=0, le=300, description="longest wait for a handler in Python; the client then gets error 100")
    ] = 5.0
    hook_threads: Annotated[
        int, Field(ge=1, le=1000, description="how many handlers that are not asynchronous run at once")
    ] = 16
    hook_headers: Annotated[
        HeaderNames,
        Field(description="headers of clients' handshakes that handlers and the proxy get: Cookie,X-Real-Ip"),
    ] = ""
    proxy_url: Annotated[
        BaseUrl | None, Field(description="the application's base URL: <proxy_url>/connect, /subscribe ... are asked")
    ] = None
    proxy_events: Annotated[
        ProxyEvents,
        Field(description="what is asked there, of: connect,subscribe,publish,rpc,refresh,sub_refresh"),
    ] = ""
    proxy_timeout_s: Annotated[
        float, Field(gt=0, le=60, description="longest wait for the proxy; the client then gets error 100")
    ] = 1.0
    webhook_url: Annotated[
        HttpUrl | None, Field(description="what has happened is posted here, by `roomcast worker webhooks`")
    ] = None
    webhook_secret: Annotated[
        Secret | None, Field(description="signs webhooks, at least 32 characters; needed with a webhook_url")
    ] = None
    webhook_events: Annotated[
        WebhookEvents, Field(description="what is posted there, of: connect,disconnect,occupied,vacated")
    ] = "connect,disconnect,occupied,vacated"

    @model_validator(mode="after")
    def _a_message_fits(self) -> Self:
        if self.max_unsent_bytes < 2 * self.max_message_bytes:
            raise ValueError("ROOMCAST_MAX_UNSENT_BYTES must be at least twice ROOMCAST_MAX_MESSAGE_BYTES")
        return self

    @model_validator(mode="after")
    def _clients_are_checked_or_not(self) -> Self:
        named = [
            f"{ENV_PREFIX}{name.upper()}"
            for name in ("secret", "previous_secret", "public_key_file", "jwks_url")
            if getattr(self, name) is not None
        ]
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
    """Refuse a node that could tell nobody's token from a forged one. Workers have no clients, and need no key.

    Raises: ConfigError that says what to set.
    """
    if not (settings.insecure or settings.secret or settings.public_key_file or settings.jwks_url):
        raise ConfigError(
            f"{ENV_PREFIX}SECRET is not set, so no client's token could be checked; give every node the same one, "
            f"made with: openssl rand -hex 32; or set {ENV_PREFIX}INSECURE=true to check nobody"
        )


def read_namespaces(settings: Settings) -> Namespaces:
    """Return the default namespaces, and those of the file, which replace defaults of the same name.

    Raises: ConfigError that names the namespace and option that cannot be used.
    """
    if settings.namespaces_file is None:
        return Namespaces()
    try:
        tables = tomllib.loads(settings.namespaces_file.read_text())
        found = TypeAdapter(dict[str, Namespace]).validate_python(tables)
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as exc:
        raise ConfigError(f"{ENV_PREFIX}NAMESPACES_FILE: {exc}") from None
    except ValidationError as exc:
        lines = [
            f"[{'.'.join(map(str, error['loc']))}] {error['msg'].removeprefix('Value error, ')}"
            for error in exc.errors(include_url=False, include_input=False)
        ]
        raise ConfigError(f"{settings.namespaces_file}: {'; '.join(lines)}") from None
    for name in found:
        if not re.fullmatch("[a-z0-9_-]{1,32}", name):
            raise ConfigError(f"{settings.namespaces_file}: [{name}]: a name is 1 to 32 of a-z, 0-9, _ and -")
    return Namespaces({**DEFAULTS, **found})


def masked(settings: Settings) -> dict[str, str]:
    """Return every setting by its environment variable, as text, with secrets masked."""
    values = {f"{ENV_PREFIX}{name.upper()}": str(value) for name, value in settings if value is not None}
    values[f"{ENV_PREFIX}REDIS_URL"] = masked_url(settings.redis_url)
    return values


def unknown_variables() -> list[str]:
    """Return the environment's `ROOMCAST_...` variables that no setting reads, such as misspelt ones."""
    known = {f"{ENV_PREFIX}{name.upper()}" for name in Settings.model_fields}
    return sorted(name for name in os.environ if name.startswith(ENV_PREFIX) and name not in known)


def read_settings() -> Settings:
    """Return the settings of this process's environment.

    Raises: ConfigError that names every bad variable; a secret's value is never in it.
    """
    try:
        return Settings()
    except ValidationError as exc:
        lines = [
            "".join(f"{ENV_PREFIX}{str(name).upper()}: " for name in error["loc"][:1])
            + error["msg"].removeprefix("Value error, ")
            for error in exc.errors(include_url=False, include_input=False)
        ]
        raise ConfigError("; ".join(lines)) from None
