"""Serving in production: the manifests, the check that reads them offline, and the way back."""
