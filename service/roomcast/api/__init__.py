"""HTTP endpoints: the server API for other services, reads for clients of a room, health and metrics."""
