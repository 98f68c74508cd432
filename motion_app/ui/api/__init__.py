"""The page's calls for programs."""
