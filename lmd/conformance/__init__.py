"""The environment's conformance suite: the same payload on every runtime, what it saw and left compared."""
