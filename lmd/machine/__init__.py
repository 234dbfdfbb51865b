"""One machine's life, the same for `lm run` and the daemon: its spec, the rules it lives by, its supervision."""
