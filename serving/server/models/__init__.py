"""Models and versions: discovery, loading, warm-up and inference."""
