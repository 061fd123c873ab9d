"""Reports: several runs read from their folders, compared, and written as tables."""
