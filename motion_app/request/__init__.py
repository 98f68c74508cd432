"""What is asked for: JSON to nouns and back, and words in the prompt."""
