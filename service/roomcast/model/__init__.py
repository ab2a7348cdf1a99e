"""The values that travel through a node: frozen, no I/O."""
