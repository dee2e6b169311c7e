"""The agent's own settings: one frozen object from flags, environment, file and defaults.

Every field says its unit and its reason; `--help` and `docs/settings.md` are made from these texts.
"""

from __future__ import annotations

import os
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Annotated, Any, Literal, Self, get_args

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, model_validator

from agent.address import is_ip
from agent.errors import SettingsInvalid
from agent.outcome import Mode
from agent.runtime import ContainerdVersion, Flavour

ENVIRONMENT_PREFIX = "REGISTRY_AGENT_"
SOCKET_NAME = "agent.sock"
#: The check of the candidate, the wait for a permission, containerd's log: each with a limit of its own.
_AROUND_RESTARTS_S = 120
CONFIG_FILE = PurePosixPath("/etc/registry-agent/config.toml")


def _absolute(path: PurePosixPath) -> PurePosixPath:
    is_below_root = path.is_absolute() and ".." not in path.parts and len(path.parts) > 1
    if not is_below_root or "\0" in str(path):
        raise ValueError("must be an absolute path without '..'")
    return path


def _containerd_version(text: str) -> str:
    if text != "auto":
        ContainerdVersion.parse(text)
    return text


def _listen(text: str) -> str:
    if text:
        split_listen(text)
    return text


def _ip(text: str) -> str:
    if text and not is_ip(text):
        raise ValueError("must be an IP address")
    return text


def split_listen(text: str) -> tuple[str, int]:
    """Split ``host:port`` (IPv6 in brackets); raises ValueError."""
    host, _, port = text.rpartition(":")
    host = host.removeprefix("[").removesuffix("]")
    if not is_ip(host) or not port.isdecimal() or int(port) > 65535:  # noqa: PLR2004 -- the largest port
        raise ValueError("must be IP:port, for example 127.0.0.1:9781")
    return host, int(port)


def _kubeconfig(text: str) -> str:
    if text:
        _absolute(PurePosixPath(text))
    return text


_NodePath = Annotated[PurePosixPath, AfterValidator(_absolute)]
_Seconds = Annotated[float, Field(gt=0, le=86400)]

#: Names go into the API's paths, so nothing but a DNS subdomain passes.
_ObjectName = Annotated[str, Field(pattern=r"^[a-z0-9]([-a-z0-9.]*[a-z0-9])?$", max_length=253)]


class Settings(BaseModel):
    """All settings. Paths are as the node sees them and lie below `root`."""

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)

    root: Path = Field(
        default=Path("/"),
        description="Where the node's / is mounted. Every other path lies below it, so that the whole "
        "agent can run in a folder, a chroot or a pod.",
    )
    mode: Mode = Field(
        default=Mode.MANAGE,
        description="manage: make registry.d what the desired config says. observe: compute and report "
        "everything, write nothing outside run_dir; the way to try the agent before trusting it.",
    )
    beside_others: bool = Field(
        default=False,
        description="Whether to write also where bashible's registry steps, k3s or Talos manage the same files. By "
        "default the agent observes there and says so.",
    )
    source: Literal["kubernetes", "file"] = Field(
        default="kubernetes",
        description="Where the desired config comes from: a Secret that is watched, with reports on the Node; or "
        "source_file, without any cluster.",
    )
    source_file: _NodePath = Field(
        default=PurePosixPath("/etc/registry-agent/desired.yaml"),
        description="The desired config with source=file: the document itself or a Secret's manifest around it. "
        "Watched.",
    )
    secret_namespace: _ObjectName = Field(default="d8-system", description="Namespace of the Secret.")
    secret_name: _ObjectName = Field(default="registry-bashible-config", description="Name of the Secret.")
    secret_key: Annotated[str, Field(pattern=r"^[-._a-zA-Z0-9]+$", max_length=253)] = Field(
        default="config", description="Key of the Secret's data that holds the document."
    )
    kubeconfig: Annotated[str, AfterValidator(_kubeconfig)] = Field(
        default="",
        description="Credentials for the API; it may appear later, and is read again when it changes. Empty: the "
        "ServiceAccount in a pod, else kubelet's /etc/kubernetes/kubelet.conf. Absolute paths in it lie below root.",
    )
    kube_context: str = Field(default="", description="Context of the kubeconfig; empty for its current-context.")
    node_name: Annotated[str, Field(pattern=r"^([a-z0-9]([-a-z0-9.]*[a-z0-9])?)?$", max_length=253)] = Field(
        default="",
        description="Name of this node's Node object. Empty: the environment's NODE_NAME, else the host name.",
    )
    rollout_spread_s: Annotated[float, Field(ge=0, le=3600)] = Field(
        default=10,
        description="Seconds over which the nodes of a cluster spread what they do after a change of the Secret: "
        "each waits its own share of it, by its name. The annotation registry-agent.io/urgent on the Secret skips it.",
    )
    registry_dir: _NodePath = Field(
        default=PurePosixPath("/etc/containerd/registry.d"),
        description="containerd's config_path. CA paths in hosts.toml begin with it.",
    )
    state_dir: _NodePath = Field(
        default=PurePosixPath("/var/lib/registry-agent"),
        description="Last good config, ownership record and backups, 0700. Must survive a reboot.",
    )
    run_dir: _NodePath = Field(
        default=PurePosixPath("/run/registry-agent"),
        description="Lock and unix socket of the health endpoint. May vanish on reboot.",
    )
    health_listen: Annotated[str, AfterValidator(_listen)] = Field(
        default="127.0.0.1:9781",
        description="IP:port of the health endpoint beside its unix socket; empty for none. Loopback by "
        "default, because /status names the node's registries.",
    )
    containerd: Literal["manage", "leave"] = Field(
        default="manage",
        description="manage: point containerd's config.toml at registry_dir, restart containerd when that needs it, "
        "and undo both if it is not well then. leave: never touch config.toml, nor restart containerd.",
    )
    containerd_unit: Annotated[str, Field(pattern=r"^(auto|[-A-Za-z0-9:_.@]+\.service)$")] = Field(
        default="auto",
        description="systemd unit of containerd. auto: containerd-deckhouse.service if it is there, else "
        "containerd.service.",
    )
    containerd_socket: _NodePath = Field(
        default=PurePosixPath("/run/containerd/containerd.sock"),
        description="containerd's socket, to see whether it is well after a restart.",
    )
    system_bus: _NodePath = Field(
        default=PurePosixPath("/run/dbus/system_bus_socket"),
        description="D-Bus socket of the node's systemd, for the restart.",
    )
    approval: Literal["lease", "bashible", "none"] = Field(
        default="lease",
        description="Who allows a restart of containerd. lease: at most restart_slots nodes at a time, by Leases in "
        "secret_namespace. bashible: Deckhouse's annotations on the Node. none, and without a cluster: nobody.",
    )
    restart_slots: Annotated[int, Field(ge=1, le=1000)] = Field(
        default=1, description="Nodes that may restart containerd at the same time, with approval=lease."
    )
    restart_timeout_s: _Seconds = Field(
        default=60,
        description="Seconds after a restart within which containerd has to be well, else the old config.toml comes "
        "back.",
    )
    restart_kubelet: bool = Field(
        default=False, description="Whether kubelet is restarted after containerd, as Deckhouse does."
    )
    flavour: Literal["auto", "deckhouse", "k3s", "stock"] = Field(
        default="auto",
        description="Whose build of containerd: only some know credentials or rewrites in hosts.toml. auto "
        "looks for Deckhouse's binary or unit and for k3s in containerd_version; else stock.",
    )
    containerd_version: Annotated[str, AfterValidator(_containerd_version)] = Field(
        default="auto",
        description="Version of containerd, such as 1.7.24, for features that not every version knows. auto: "
        "the Node's, else containerd's own word; as long as nobody knows, only what every supported version reads.",
    )
    node_ip: Annotated[str, AfterValidator(_ip)] = Field(
        default="",
        description="The node's address, for ${discovered_node_ip} in the config. Empty: from "
        "/var/lib/bashible/discovered-node-ip, else the Node's InternalIP.",
    )
    resync_interval_s: _Seconds = Field(
        default=300,
        ge=1,
        description="Seconds between passes when nothing happens, +-10 %: for changes that inotify misses.",
    )
    retry_min_s: _Seconds = Field(
        default=1,
        ge=0.1,
        description="Seconds until the first retry of a failed pass; doubles up to retry_max_s.",
    )
    retry_max_s: _Seconds = Field(
        default=60,
        description="Seconds at most between retries: an operator who repairs a node need not wait long.",
    )
    absent_settle_s: _Seconds = Field(
        default=5,
        description="Seconds between the two readings that confirm that the desired config was deleted: a "
        "Secret that is deleted and created again must not release the node.",
    )
    pass_timeout_s: _Seconds = Field(
        default=300,
        description="Seconds after which a running pass counts as hung and /healthz fails. Above the "
        "slowest honest pass: a restart of containerd that has to be rolled back.",
    )
    log_level: Literal["debug", "info", "warning", "error"] = Field(
        default="info",
        description="info says what changed and is silent otherwise.",
    )

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if self.retry_min_s > self.retry_max_s:
            raise ValueError("retry_min_s must not be above retry_max_s")
        # A restart and its way back, with all that is asked before, between and after.
        if self.pass_timeout_s < 2 * self.restart_timeout_s + _AROUND_RESTARTS_S:
            raise ValueError(f"pass_timeout_s must be at least 2 * restart_timeout_s + {_AROUND_RESTARTS_S}")
        return self

    def on_node(self, path: PurePosixPath) -> Path:
        """Return where the agent finds a path of the node."""
        return self.root / path.relative_to("/")

    @property
    def fixed_flavour(self) -> Flavour | None:
        """The flavour that was set, None for auto."""
        return None if self.flavour == "auto" else Flavour(self.flavour)


@dataclass(frozen=True, slots=True, kw_only=True)
class Option:
    """One setting as flags, environment, docs and the config file show it."""

    name: str
    default: str
    description: str
    choices: tuple[str, ...]

    @property
    def flag(self) -> str:
        """The command line flag."""
        return f"--{self.name.replace('_', '-')}"

    @property
    def variable(self) -> str:
        """The environment variable."""
        return f"{ENVIRONMENT_PREFIX}{self.name.upper()}"


def options() -> Iterator[Option]:
    """Yield every setting in the order of the class."""
    for name, field in Settings.model_fields.items():
        is_mode = field.annotation is Mode
        default = field.default.value if is_mode else field.default
        choices = tuple(mode.value for mode in Mode) if is_mode else get_args(field.annotation)
        is_choice = all(isinstance(choice, str) for choice in choices)
        yield Option(
            name=name,
            default=f"{default}",
            description=field.description or "",
            choices=choices if is_choice else (),
        )


def load(flags: Mapping[str, str], environment: Mapping[str, str], *, config: Path | None = None) -> Settings:
    """Return the settings: flags before environment before file before defaults.

    `config` names a settings file that must exist; without it, the default one below the root is
    read if it is there. Raises SettingsInvalid naming the setting.
    """
    given = {
        **{option.name: environment[option.variable] for option in options() if option.variable in environment},
        **flags,
    }
    root = given.get("root", "/")
    if not root or "\0" in root:
        raise SettingsInvalid("settings refused: root must be a path", remedy="see registry-agent run --help")
    root = os.path.abspath(root)
    # The file lies below the root, so it cannot say where the root is.
    from_file = _read_file(Path(root), config)
    if "root" in from_file:
        raise SettingsInvalid("settings refused: root cannot be set in a file", remedy="use --root or the environment")
    values = {**from_file, **given, "root": root}
    try:
        return Settings.model_validate(values)
    except ValidationError as err:
        problems = "; ".join(_problem(line) for line in err.errors(include_url=False, include_input=False))
    raise SettingsInvalid(f"settings refused: {problems}", remedy="see registry-agent run --help")


def _read_file(root: Path, config: Path | None) -> dict[str, Any]:
    path = config if config is not None else root / CONFIG_FILE.relative_to("/")
    try:
        with path.open("rb") as file:
            return tomllib.load(file)
    except FileNotFoundError as err:
        if config is None:
            return {}
        raise SettingsInvalid(f"settings file {path} does not exist", remedy="correct --config") from err
    except OSError as err:
        raise SettingsInvalid(f"settings file {path}: {err.strerror}", remedy="check it") from err
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as err:
        raise SettingsInvalid(f"settings file {path} is not valid TOML: {err}", remedy="correct it") from err


def _problem(line: Mapping[str, Any]) -> str:
    name = ".".join(map(str, line["loc"]))
    if line["type"] == "extra_forbidden":
        return f"{name} is not a setting"
    return f"{name}: {line['msg'].removeprefix('Value error, ')}" if name else line["msg"].removeprefix("Value error, ")
