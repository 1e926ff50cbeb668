"""The request of a run: settings of the pipeline, data and smoke size from the command line."""
