"""Roomcast: a horizontally scalable broadcast service on FastAPI and Redis."""

__version__ = "0.1.0"
