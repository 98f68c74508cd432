"""The embedded checkpoint: the world it is drawn from and the scripts that train it."""
