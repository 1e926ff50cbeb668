"""One module per format: a function under `@jobs.register(name)` that returns a `Source`."""
