"""Rows of docs/results.md: what is run, published and stored for each, and how they compare."""
