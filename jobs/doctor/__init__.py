"""What `jobs doctor` checks on this machine and on the cluster's nodes."""
