"""Carries publications between nodes."""
