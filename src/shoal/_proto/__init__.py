"""What travels between processes: messages (one row per kind) and frames (bytes in, values out)."""
