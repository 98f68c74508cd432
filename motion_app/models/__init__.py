"""Weights from the hub or a folder, and the models that find objects."""
