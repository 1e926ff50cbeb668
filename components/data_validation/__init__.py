"""Validation of images, annotations and statistics before training."""
