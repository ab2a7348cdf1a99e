"""Processes beside the nodes that publish into channels."""
