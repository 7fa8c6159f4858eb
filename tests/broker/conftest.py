"""The fixtures of harness.py, for all tests of this folder."""
from harness import certificates, folder, make_broker, serve

__all__ = ["certificates", "folder", "make_broker", "serve"]
