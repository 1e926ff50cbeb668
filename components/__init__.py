"""TFX components: each file has one component and the plain function that does its work."""
