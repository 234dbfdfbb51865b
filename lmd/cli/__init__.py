"""The `lm` command: one file a command group; prints and parses, never decides."""
