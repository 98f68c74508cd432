"""Motions on disk. No torch."""
