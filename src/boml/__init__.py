"""BOML: its names, the keys of its files, and what becomes of them here."""
