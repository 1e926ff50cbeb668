"""From a trained model to a bundle: compression, SavedModel and TFLite files."""
