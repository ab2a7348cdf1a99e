"""Maps: channels that hold a value for each of their keys. What namespaces, writes and reads of a map are made of."""

from __future__ import annotations

import enum
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, NamedTuple

from roomcast.model.errors import ClientError, ErrorCode
from roomcast.model.positions import Position

MAX_KEY_BYTES = 255
MAX_PAGE_LENGTH = 10_000
_CONTROL = re.compile("[\x00-\x1f\x7f-\x9f]")
_MAX_KEYS = 1_000_000
_MAX_MAP_BYTES = 1024**3


class MapMode(enum.Enum):
    """What a map keeps beside its keys."""

    EPHEMERAL = "ephemeral"  # nothing: a client that returns loads the whole map again; keys expire
    RECOVERABLE = "recoverable"  # its newest changes, from which a client that returns continues; keys expire
    PERSISTENT = "persistent"  # its newest changes; keys stay until they are removed


class ClientKey(enum.Enum):
    """The key that a client writes."""

    ANY = "any"  # the one that it names
    CLIENT_ID = "client_id"  # the id of its connection
    USER_ID = "user_id"  # its user


@dataclass(frozen=True, slots=True, kw_only=True)
class MapOptions:
    """The options of a namespace of maps, as the table `[<namespace>.map]`.

    key_ttl_s: a key expires so long after its last write; 0 in persistent maps.
    meta_ttl_s: epoch and offset are kept at least so long after the last write or read; 0: chosen by the mode.
    page_size: entries of a page for clients that ask for no size; theirs is raised to min_page_size and lowered to
        max_page_size.
    catch_up_timeout_s: a client that loads the map asks for the next page within this time.
    client_key: the key that clients write. remove_on_unsubscribe: the key that is the id of a connection is removed
        when its subscription ends.
    max_keys, max_map_bytes: of one map, as it is stored: keys, values, tags and the infos of clients.
    """

    # pydantic, which reads the file, rejects unknown names.
    __pydantic_config__: ClassVar[Mapping[str, object]] = {"extra": "forbid"}

    mode: MapMode
    key_ttl_s: float = 0.0
    meta_ttl_s: float = 0.0
    page_size: int = 100
    min_page_size: int = 100
    max_page_size: int = 1000
    catch_up_timeout_s: float = 5.0
    client_key: ClientKey = ClientKey.ANY
    remove_on_unsubscribe: bool = False
    max_keys: int = 10_000
    max_map_bytes: int = 16 * 1024 * 1024

    def __post_init__(self) -> None:
        """Check the limits. Raises: ValueError."""
        is_persistent = self.mode is MapMode.PERSISTENT
        if is_persistent and (self.key_ttl_s or self.meta_ttl_s):
            raise ValueError("a persistent map has neither key_ttl_s nor meta_ttl_s")
        if not is_persistent and not 0.1 <= self.key_ttl_s <= 366 * 24 * 3600:
            raise ValueError(f"key_ttl_s of a map in mode {self.mode.value} must be 0.1 s to 366 days")
        if self.meta_ttl_s and not self.key_ttl_s <= self.meta_ttl_s <= 2 * 366 * 24 * 3600:
            raise ValueError("meta_ttl_s must be at least key_ttl_s, and 732 days at most")
        if not 1 <= self.min_page_size <= self.page_size <= self.max_page_size <= MAX_PAGE_LENGTH:
            raise ValueError(f"1 <= min_page_size <= page_size <= max_page_size <= {MAX_PAGE_LENGTH}")
        if not 0.1 <= self.catch_up_timeout_s <= 3600:
            raise ValueError("catch_up_timeout_s must be 0.1 to 3600")
        if not 1 <= self.max_keys <= _MAX_KEYS:
            raise ValueError(f"max_keys must be 1 to {_MAX_KEYS}")
        if not 1024 <= self.max_map_bytes <= _MAX_MAP_BYTES:
            raise ValueError(f"max_map_bytes must be 1024 to {_MAX_MAP_BYTES}")

    def page_length(self, wanted: int) -> int:
        """Return the number of entries of a page for a client that asks for some; 0: it does not."""
        return min(max(wanted or self.page_size, self.min_page_size), self.max_page_size)

    def expected(self, position: Position) -> Position:
        """Return the position that a write expects of its key. Raises: ClientError 107 where there are no positions."""
        if self.mode is MapMode.EPHEMERAL and (position.offset or position.epoch):
            detail = "expected_offset: an ephemeral map has no offsets; only 0 is possible"
            raise ClientError(ErrorCode.BAD_REQUEST, detail)
        return position

    def own_key(self, client: str, user: str) -> str | None:
        """Return the only key that a client may write; None: any. Names of users are valid keys.

        Raises: ClientError 103 for an anonymous client.
        """
        if self.client_key is ClientKey.ANY:
            return None
        if self.client_key is ClientKey.CLIENT_ID:
            return client
        if not user:
            raise ClientError(ErrorCode.PERMISSION_DENIED, "the key is the user, and the client has none")
        return user


class Change(NamedTuple):
    """What a publication does to the map of its channel: it sets a key to its data, or removes it.

    tags_before: those of the value that it replaces, where a client's filter needs them.
    time_ms: Unix time of the write.
    """

    key: str
    is_removed: bool = False
    tags_before: Mapping[str, str] | None = None
    time_ms: int = 0


class KeyMode(enum.Enum):
    """The condition of a write about its key."""

    REPLACE = ""
    IF_NEW = "if_new"
    IF_EXISTS = "if_exists"


def check_key(key: str) -> str:
    """Return a key: 1 to 255 bytes of UTF-8 without control characters. Raises: ClientError 107."""
    try:
        size_bytes = len(key.encode())
    except UnicodeEncodeError:
        raise ClientError(ErrorCode.BAD_REQUEST, "key is not valid UTF-8") from None
    if not 1 <= size_bytes <= MAX_KEY_BYTES:
        raise ClientError(ErrorCode.BAD_REQUEST, f"key must be 1 to {MAX_KEY_BYTES} bytes, this one has {size_bytes}")
    if _CONTROL.search(key):
        raise ClientError(ErrorCode.BAD_REQUEST, "key holds a control character")
    return key
