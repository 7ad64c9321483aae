"""From a module to one exported graph that a format can be written from."""
