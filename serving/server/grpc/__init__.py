"""TF Serving's gRPC API and the gRPC health service."""
