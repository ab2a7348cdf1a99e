"""One contract, held against every implementation."""
