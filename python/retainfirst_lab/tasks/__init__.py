"""Ready-made models and tasks to try unlearning on; every module here is imported only when asked for.

- ``facts``: a tiny Llama that knows invented facts, implanted in about a minute and cached.
- ``smollm2``: SmolLM2-135M-Instruct prepared without a model hub.
- ``implant``: fine-tune a model on a file, so that there is something to unlearn.
- ``multiple_choice`` and ``lm_eval/``: the tasks that ask a facts model its facts.
"""
