"""One client: its state, transport and encoding, and the backlog of a slow one."""
