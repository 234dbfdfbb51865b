"""CernVM-FS repositories for machines: who mounts them on this host, and how they come into a machine."""
