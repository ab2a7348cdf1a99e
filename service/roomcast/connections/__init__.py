"""One client: its state, its transport and encoding, and what waits while it is slow."""
