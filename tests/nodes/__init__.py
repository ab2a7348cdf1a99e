"""Real nodes on a real server."""
