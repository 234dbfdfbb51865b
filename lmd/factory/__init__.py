"""The daemon of one factory: observe, join, decide, write down, act; nothing that a running machine needs."""
