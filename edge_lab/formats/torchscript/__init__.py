"""TorchScript and the lite interpreter."""
