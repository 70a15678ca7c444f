"""Small models and data to try unlearning on, and the evaluation tasks.

- ``facts``: a tiny Llama that knows invented facts; it is trained in about a minute and cached.
- ``smollm2``: SmolLM2-135M-Instruct, made without a model hub.
- ``rwku``: passages and probes in RWKU's form, on people that SmolLM2 knows.
- ``implant``: teach a model the rows of a file, so that it has something to unlearn.
- ``multiple_choice`` and ``lm_eval/``: the tasks that ask a facts model its facts.
"""
