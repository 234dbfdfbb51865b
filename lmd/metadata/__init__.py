"""The metadata server: what machines ask for by HTTP, and what they PUT. One process for the host, unprivileged."""
