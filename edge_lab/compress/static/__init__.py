"""Static quantization: PT2E, calibrated on inputs."""
