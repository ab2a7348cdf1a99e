"""Transports to one client: a WebSocket, an event stream, a stream of replies, one poll."""
