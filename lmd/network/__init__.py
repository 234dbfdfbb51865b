"""The factory's own network: one bridge for all machines that want fixed addresses, metadata and no neighbours."""
