"""What is installed, what works on this machine, and what is missing for what (``retainfirst doctor``)."""

from retainfirst.doctor._examine import Finding, examine

__all__ = ["Finding", "examine"]
