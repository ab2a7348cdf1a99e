"""Access to Redis: URLs, connections, keys, scripts, pipelines, and the bytes of a message."""
