"""Networks as pure functions (init, apply), defined with haiku."""
