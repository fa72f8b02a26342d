//! CPUs, shards and room groups.
