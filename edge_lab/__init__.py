"""The package behind the labs: from a PyTorch model to a bundle that a device can run."""
