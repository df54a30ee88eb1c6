"""The runtime: many requests through one network at once. `daedal.engine.engine.Engine` is the way
in."""
