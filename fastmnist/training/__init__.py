"""How a model is trained, whatever it runs on: the epoch loop, the full-batch solvers, and what they record."""
