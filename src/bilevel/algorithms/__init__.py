"""Algorithms: what the training loop runs. An algorithm owns its state and one iteration."""
