"""Fanlight as a model of lm-evaluation-harness (EleutherAI). In: the harness's requests. Out: its numbers and texts.

    lm_eval --model fanlight --model_args pretrained=NAME --tasks ...
    python -m fanlight.evaluating --model fanlight --model_args pretrained=NAME --tasks ...

The first needs a harness that reads the entry points of the group `lm_eval.models`, which its release 0.4.13 does not yet; the
second works with both. `harness.py` is the model, `arguments.py` what its options mean, `scoring.py` the likelihoods, which know
nothing of the harness. Importing this package loads none of them.
"""
