"""What a machine sees: machine/job features, joboutputs, user_data, and how its end is read."""
