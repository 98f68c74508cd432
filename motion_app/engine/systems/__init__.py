"""The systems that others made, each on the stock pipeline: what it starts from, how its attention
is steered, what becomes of a step. One module a system, written afresh from what is published."""
