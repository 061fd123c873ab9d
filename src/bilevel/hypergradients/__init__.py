"""Hypergradient estimators, one file each.

A file declares beside its code what it DIFFERENTIATES (any of context, params, start) and its
TARGET, the function whose derivative it claims to be; refusals and tests follow from the two.
"""
