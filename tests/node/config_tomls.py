"""The config.toml that nodes have in tests of the switch."""

from tests.node import pods

CRI = '[plugins."io.containerd.grpc.v1.cri"]'

LEGACY_TOML = f"""\
# kept by hand
{pods.CONFIG_TOML.partition('[plugins."io.containerd.grpc.v1.cri".registry]')[0]}
[plugins."io.containerd.grpc.v1.cri".registry.mirrors."legacy.test"]
  endpoint = ["https://mirror-a.test"]   # moved aside
"""
POINTS_AT_US = 'config_path = "/etc/containerd/registry.d"'

BAD_KEY = f'{CRI}\n  stream_idle_timeout = "never"\n'
"""`containerd config dump` prints it, the CRI plugin does not load with it."""

IMPORTING_TOML = 'version = 2\nimports = ["/etc/containerd/conf.d/*.toml"]\n'
"""With `starts.trapped`, the CRI plugin does not load once it points at registry.d."""
