"""The driver of a pool: keeps its replicas up, and gives jobs seats in them."""
