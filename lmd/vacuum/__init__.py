"""The vacuum model: what a factory starts next, from its own facts and its space's reports. Pure."""
