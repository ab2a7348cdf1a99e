"""Shared by tests: servers, clients, fakes."""
