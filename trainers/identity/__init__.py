"""Digests of code, data and packages that decide whether a cached result is still valid."""
