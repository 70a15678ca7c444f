"""Engines: where the gradients of a model on several processes live, and when they are averaged.

A combiner must see averaged gradients: signs and projections of averages are not averages of signs and projections. The docstring
of each engine says where gradients live, when they are averaged and how many bytes are sent.
"""

from retainfirst.engines._deepspeed import check_zero_config
from retainfirst.engines._find import find_engine, named_parameters
from retainfirst.engines._host import HostMemory
from retainfirst.engines._local import Engine, Gradients, local

__all__ = ["Engine", "Gradients", "HostMemory", "check_zero_config", "find_engine", "local", "named_parameters"]
