"""Measurements, not tests: `make bench`. README.md in this folder describes them."""
