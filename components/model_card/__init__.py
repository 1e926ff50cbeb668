"""The component that writes the model card of a bundle; see `trainers.bundles.card`."""
