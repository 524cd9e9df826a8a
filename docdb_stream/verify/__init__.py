"""Whether what a target holds equals the source: found out, proven, repaired."""
