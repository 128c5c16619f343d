"""What `tools/chapters.py` does, one module a command."""
