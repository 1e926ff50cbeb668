"""Bundles and the ways to serve, call and time them; knows nothing of how they were made."""
