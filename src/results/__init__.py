"""Rows of docs/results.md: what is run for each, what is published, stored, and how they compare."""
