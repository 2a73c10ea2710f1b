"""openGPS: deepGPS as a web application, with pages, a JSON interface and a queue of its own."""

from opengps.application import create_app

__all__ = ["create_app"]
