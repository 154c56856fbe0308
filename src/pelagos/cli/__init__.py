"""The command line. Nothing imports this room; its entry is :func:`pelagos.cli.main.main`."""
