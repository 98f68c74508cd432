"""Methods compared on scenes whose truth is known."""
