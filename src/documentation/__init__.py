"""What docs/conf.py needs to build the site: pages from files, keys from conf/, docstrings."""
