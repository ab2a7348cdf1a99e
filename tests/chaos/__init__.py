"""The chaos test: real nodes, real servers, faults at random, and every subscriber's log checked at the end."""
