"""TF Serving's REST API: routes, JSON, compression and CORS."""
