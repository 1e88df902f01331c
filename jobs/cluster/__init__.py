"""Ray clusters: the embedded one on this machine, and submitting drivers to any."""
