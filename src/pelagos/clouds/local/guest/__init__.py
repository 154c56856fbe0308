"""What runs in and around an instance: standard library only, started as `python -I -S`, without the rest of Pelagos.

Everything here is imported before the root is changed: the interpreter's own files may be masked inside.
"""
