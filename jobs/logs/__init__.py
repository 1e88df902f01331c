"""What a job's driver and replicas have logged: from the cluster while it runs them, else from the store."""
