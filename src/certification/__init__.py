"""Certification: every estimate against finite differences of its target, in float64."""
