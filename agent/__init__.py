"""registry-agent: keeps a node's containerd registry configuration what the cluster wants."""

__version__ = "0.1.0"
