"""Plain rooms: WebSocket, server-sent events and polls without a client library."""
