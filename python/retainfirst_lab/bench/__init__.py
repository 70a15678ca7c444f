"""What retainfirst costs, as ratios to what it is held against, measured side by side in one run.

``combine``: a rule on gradients beside the memory's limit and other implementations. ``step``: a training step beside plain
addition of the two losses. ``memory``: what such a step holds at its peak. ``imports``: ``import retainfirst`` beside
``import torch``. ``verify``: what the exact oracle and the exhaustive check get through. The command is ``retainfirst bench``;
``docs/performance.md`` says how to read the numbers.
"""
