"""Which method solves which problem: BOLIB, and one problem of each kind."""
