"""Machines that are not this one: a board in an emulator, a computer behind SSH."""
