"""Settings: from a composed configuration to checked values, and to the objects of a run."""
