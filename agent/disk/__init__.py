"""The file system: observe registry.d, apply a plan, keep the agent's own state."""
