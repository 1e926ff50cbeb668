"""Projects: folders of users with a pipeline, its recipes, data, runs and bundles."""
