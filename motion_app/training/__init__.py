"""Learning one motion from reference clips, with the backbone frozen."""
