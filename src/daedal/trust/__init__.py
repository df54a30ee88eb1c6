"""Where content comes from: watermarks, a registry of what this machine made, signed manifests."""
