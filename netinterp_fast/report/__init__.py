"""The HTML report: one folder to open in a browser, without a server or a network."""

from .write import write_report

__all__ = ["write_report"]
