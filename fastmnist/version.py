"""The version number, alone in a file that imports nothing: the build reads it without importing the package."""

__version__ = "0.1.0"
