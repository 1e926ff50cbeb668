"""Optional features: canary and shadow traffic, request logs, traces."""
