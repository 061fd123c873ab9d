"""Running: the training loop, checkpoints, evaluation, and runs read back from their folders."""
