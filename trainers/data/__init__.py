"""The input pipeline: from TFRecords to batches of uint8 images."""
