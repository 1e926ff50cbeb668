"""TF Serving's REST API, and the pages beside it: health, Vertex AI, the shadow report."""
