"""Tests that need no socket and no Redis: `make unit`."""
