"""The settings of the nodes that these tests share."""

from __future__ import annotations

from tests.support.tokens import private_key

MAX_MESSAGE_BYTES = 2 * 1024 * 1024
NAMESPACES = """
[room]
history_size = 300
history_ttl_s = 60.0
recovery = "stream"
tags_filter = true
may_publish = "anyone"
may_read_history = "anyone"

[feed]
may_publish = "anyone"
"""
PUBLIC_KEY = private_key("ES256")
