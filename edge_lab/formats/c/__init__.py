"""C sources for microcontrollers, and the boards that they are for."""
