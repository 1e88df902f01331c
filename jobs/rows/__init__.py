"""From input rows to staged rows: prompts, sampling values, tools, choices, fingerprints."""
