"""The replica: one Ray actor per engine that turns staged shards into committed results."""
