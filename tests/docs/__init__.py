"""Examples of the documentation, run as they are written."""
