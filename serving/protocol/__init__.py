"""TF Serving's messages and the values they carry, without TensorFlow."""
