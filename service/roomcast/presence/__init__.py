"""The members of each channel, over all nodes."""
