"""Ray tasks that read the dataset, make the plan and write staged shards."""
