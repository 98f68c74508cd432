"""Cartoons drawn with their truth. No torch."""
