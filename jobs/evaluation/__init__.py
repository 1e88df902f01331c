"""Evaluation: the benchmarks of a model card as batch jobs, with pinned prompts, rules and averages."""
