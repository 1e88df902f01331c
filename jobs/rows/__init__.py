"""Preparation of input rows into staged rows: prompts, sampling values, tools, choices, fingerprints."""
