"""What a user would use instead, called as its documentation shows. Runs in the environment that `make peers` makes and
imports nothing of Semivox."""

ROTATION_DEG, SCALE = 20.0, (0.8, 1.25)
"""How far patches are rotated and scaled where they are, in every way of making batches."""
NOISE = 0.1
"""Deviation of the noisy view."""
