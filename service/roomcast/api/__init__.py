"""What is asked by HTTP: by other services (the server API), by clients of a room, by operators."""
