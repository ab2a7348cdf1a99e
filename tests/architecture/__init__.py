"""The architecture as data: the floors, the import graph, the limits, and the picture that is drawn from them."""
