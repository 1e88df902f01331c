"""Prompt templates: Jinja in a sandbox that counts its work."""
