"""Bytes to `DesiredConfig`: strict YAML, wire shape, rules, digest."""
