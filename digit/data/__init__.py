"""Pictures and codes from disk to the device: safe readers, and an order that any step can recompute."""
