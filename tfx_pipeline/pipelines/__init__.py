"""One function per pipeline, each returning a whole `PipelineConfig`."""
