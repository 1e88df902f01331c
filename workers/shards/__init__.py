"""Reading staged shards and building result shards; used by replicas and staging."""
