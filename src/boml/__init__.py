"""BOML: its names, and the keys of its files with the options that correspond to them here."""
