"""Models, data input, training, compression and export: TensorFlow and tf_keras, nothing of TFX."""
