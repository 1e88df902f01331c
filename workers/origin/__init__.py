"""Conversion of InternEvo ("Origin") checkpoints to safetensors: a program of its own, since it needs torch."""
