"""`lm simulate`: the decision that the daemon takes, over simulated time and a simulated space."""
