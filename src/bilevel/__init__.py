"""The science: lower dynamics, aggregation, hypergradients and algorithms as pure functions."""
