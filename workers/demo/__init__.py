"""Small InternLM2 models: a random one for tests, and one that answers, with its recipe."""
