"""A two-convolution CNN that learns to read handwritten digits: a PyTorch tutorial that works."""

__version__ = "1.0.0"


class Error(Exception):
    """A mistake the user can fix: its message is one line that says what to do next."""
