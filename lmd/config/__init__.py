"""TOML files to checked, frozen models; every error at once, with file, key and what was expected."""
