"""WebSocket: bytes, handshake, and the two stages of a connection (ASGI, detached)."""
