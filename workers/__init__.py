"""What runs on the cluster: driver, staging, replicas, engines."""
