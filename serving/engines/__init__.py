"""Inference engines: TensorFlow for SavedModels, LiteRT for `.tflite` files."""
