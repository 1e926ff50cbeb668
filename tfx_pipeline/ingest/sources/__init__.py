"""One data set a file: a function under `@jobs.register(name)` that names classes and images."""
