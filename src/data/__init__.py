"""Loaders (numpy) and device-side sampling: data is a pure function of files, options and seeds."""
