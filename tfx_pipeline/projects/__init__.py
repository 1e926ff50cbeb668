"""Projects: a user's own folder with a pipeline, its recipes, data, runs and bundles."""
