"""CernVM-FS: read a repository, verify it, mount it."""
