"""The version of the package, in a module of its own: whoever writes it down need not import the public names."""

__version__ = "0.1.0"
