"""Thin faces of the ancestors: their commands and their Python API, over the clients and the command line."""
