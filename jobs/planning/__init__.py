"""Planning: which rows go into which shard, in which order, and what a job will cost."""
