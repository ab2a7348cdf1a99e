"""How Redis is reached: URLs, connections, keys, scripts, pipelines, and the bytes of a message."""
