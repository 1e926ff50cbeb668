"""Optional features: canary and shadow traffic, TLS, Vertex AI."""
