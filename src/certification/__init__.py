"""Certification: every hypergradient estimator against what it claims to be, in float64."""
