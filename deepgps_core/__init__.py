"""deepGPS, reproduced: the thin library behind the book's notebooks."""

__version__ = "0.1.0"
