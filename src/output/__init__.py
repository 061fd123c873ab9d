"""Output: what people see of a run: rows, tables, plots."""
