"""One module per pipeline: a function that returns a complete `PipelineConfig`."""
