"""Whole configs that commands read: ``demo.yaml``, ``real.yaml``, ``organisms.yaml``.

They count by what they set, not as data of the code: an organism that is built stays one when a step of RL or a
monitor's transcripts change in the demo that uses it.
"""
