"""The log: one JSON object per line, or readable text."""

from __future__ import annotations

import logging
import sys
import warnings

import structlog

from roomcast.config import Settings, nearest_variable, short_keys, unknown_variables

log = structlog.get_logger(__name__)


def configure_logging(settings: Settings, *, node_id: str) -> None:
    """Send all log lines of the process to stderr, also those of uvicorn and redis-py."""
    shared: list[structlog.types.Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True, key="time"),
    ]
    renderer: structlog.types.Processor = (
        structlog.processors.JSONRenderer()
        if settings.log_format == "json"
        else structlog.dev.ConsoleRenderer(timestamp_key="time", colors=sys.stderr.isatty())
    )

    def add_node(_: object, __: str, event: structlog.types.EventDict) -> structlog.types.EventDict:
        event["node"] = node_id
        return event

    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[
                structlog.stdlib.ProcessorFormatter.remove_processors_meta,
                add_node,
                *([structlog.processors.format_exc_info] if settings.log_format == "json" else []),
                renderer,
            ],
        )
    )
    logging.basicConfig(level=settings.log_level.upper(), handlers=[handler], force=True)
    _quieten_libraries()
    structlog.configure(
        processors=[structlog.stdlib.filter_by_level, *shared, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        logger_factory=structlog.stdlib.LoggerFactory(),
        cache_logger_on_first_use=True,
    )


def warn_of_settings(settings: Settings) -> None:
    """Log keys that can be guessed, and `ROOMCAST_...` variables that are not settings, such as misspelt ones."""
    for name in short_keys(settings):
        log.warning("settings.short_key", setting=name, effect="it can be guessed; make one with: openssl rand -hex 32")
    for name in unknown_variables():
        log.warning("settings.unknown_variable", variable=name, nearest=nearest_variable(name))


def _quieten_libraries() -> None:
    # Both log whole URLs at INFO, in which tickets and keys may be.
    for name in ("uvicorn", "httpx"):
        logging.getLogger(name).setLevel(max(logging.WARNING, logging.getLogger().level))
    # uvicorn logs this error for a stream that was closed as slow; the node counts it by close code.
    logging.getLogger("uvicorn.error").addFilter(lambda line: "without completing response" not in line.getMessage())
    # PyJWT warns of short keys in lines of its own; `warn_of_settings` names the setting.
    warnings.filterwarnings("ignore", message="The HMAC key is")
