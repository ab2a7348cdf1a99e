"""Tests that kill, freeze and partition."""
