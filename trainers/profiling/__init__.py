"""The cost of a model: parameters, FLOPs, activations and hardware limits."""
