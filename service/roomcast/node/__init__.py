"""One node: its hub, its tracks, and how it takes part in the cluster."""
