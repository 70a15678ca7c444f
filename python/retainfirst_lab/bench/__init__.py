"""Benchmarks: the cost of retainfirst as ratios to baselines that are measured side by side in the same run.

- ``combine``: combining gradients, compared with memory traffic and with other implementations.
- ``step``: a training step, compared with plain addition of the two losses.
- ``guard``: looking at the optimiser's step, compared with memory traffic and with a step that is not looked at.
- ``memory``: the peak memory of such a step.
- ``imports``: ``import retainfirst``, compared with ``import torch``.
- ``verify``: the throughput of the exact oracle and of the exhaustive check.

The command is ``retainfirst bench``; ``docs/performance.md`` explains the numbers.
"""
