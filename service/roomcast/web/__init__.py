"""Shared by all endpoints: sockets, origins, errors as HTTP answers, streaming, the page."""
