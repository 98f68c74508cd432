"""Judging videos, whoever made them: pure metrics, and the extractors that feed them."""
