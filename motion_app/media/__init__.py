"""Files of strangers in, marked files out."""
