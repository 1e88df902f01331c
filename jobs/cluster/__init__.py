"""Ray clusters: the embedded one on this machine, and submission of drivers to any cluster."""
