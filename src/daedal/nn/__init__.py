"""Layers that more than one network uses: norms, rotary positions, attention, feed-forward, caches,
quantised linears."""
