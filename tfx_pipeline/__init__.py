"""Ingest jobs, the pipeline graph, its runners and the `sightline` command line."""
