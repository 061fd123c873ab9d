"""Around the science: configuration, the training loop, checkpoints, writers, plots."""
