"""Running programs that a model wrote: each in a process of its own, in a sandbox, on the cluster's CPUs."""
