"""Measurements that each answer one question of the docs. Run one with ``python -m retainfirst_lab.studies.<name>``.

- ``engines``: equality with one process, traffic and memory, for every engine (docs/engines.md).
- ``gpu``: the combiners on a GPU (docs/performance.md).
- ``optimisers``: which combiner's promise survives which optimiser (docs/theory.md, README).
- ``tightness``: where SAGO is tighter than PCGrad on real gradients (docs/theory.md).
- ``toward_retain``: the cost and the effect of PCGrad's ``round_toward_retain`` (docs/reference/rules/pcgrad.md).
- ``rwku``: which rule spares the neighbours of what SmolLM2 forgets, in open-unlearning (docs/results/rwku.md).
- ``smollm2``: the rules on SmolLM2, measured by row and author (docs/results/smollm2.md).
- ``simnpo_gap``: why SimNPO's gap does not show (docs/reproduction.md).
- ``solver_x2``: a counterexample for statement X2, by Z3 (docs/theory.md).
"""
