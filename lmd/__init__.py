"""The logical-machine daemon and the `lm` command."""
