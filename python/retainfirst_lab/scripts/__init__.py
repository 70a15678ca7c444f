"""Scripts that each answer one question; run them with ``python -m retainfirst_lab.scripts.<name>``."""
