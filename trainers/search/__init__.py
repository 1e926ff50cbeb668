"""Search of configuration values and of the learning rate."""
