"""One module for each way to run a logical machine, the contract between them, and its conformance suite."""
