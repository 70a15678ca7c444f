"""retainfirst in open-unlearning: ``trainer=RetainFirst<X>`` for every unlearning trainer ``<X>`` of the framework."""
