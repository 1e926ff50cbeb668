"""TFX components: each file holds one component beside the plain function that does its work."""
