"""The Motions tab."""
