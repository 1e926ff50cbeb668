"""Training: steps, epochs, losses, checkpoints, run folders and events of a run."""
