"""The laboratory: benchmarks, the reproduction of the paper, and the makers of the small models and data that both use.

It is installed with the library ``retainfirst``, which never imports it; the command loads it when asked.
"""
