"""From TFRecords to batches of uint8 images: what records hold, how they are decoded and fed."""
