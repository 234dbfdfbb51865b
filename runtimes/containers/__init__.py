"""What engines with Docker's HTTP interface share; Podman's own interface is of the same make."""
