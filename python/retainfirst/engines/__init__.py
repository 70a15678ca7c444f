"""Where gradients live when several processes train one model, when they are averaged, and who holds which part of them.

A rule must see gradients that are averaged over the processes already: signs and projections of averages are not averages of
signs and projections. Each engine says in its docstring where gradients live, when they are averaged and how many bytes it sends.
"""

from retainfirst.engines._deepspeed import check_zero_config
from retainfirst.engines._find import find_engine, named_parameters
from retainfirst.engines._host import HostMemory
from retainfirst.engines._local import Engine, Gradients

__all__ = ["Engine", "Gradients", "HostMemory", "check_zero_config", "find_engine", "named_parameters"]
