"""A verified float32 file → the same network in float16 or int8, guarded before it gets its name."""
