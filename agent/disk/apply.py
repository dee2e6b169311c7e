"""Carries out a plan, operation by operation. Stops at the first failure; planning again goes on."""

from __future__ import annotations

import secrets
from itertools import groupby
from typing import assert_never

from agent import plan
from agent.disk import backup
from agent.disk.directory import Directory
from agent.errors import AgentError
from agent.ownership import RECORD_FILE, write_names
from agent.tree import (
    HOST_DIRECTORY_MODE,
    HOSTS_TOML,
    PUBLIC_MODE,
    SECRET_MODE,
    STATE_FILE,
    TEMPORARY_PREFIX,
    File,
    HostDirectory,
)


class Executor:
    """Works in two open directories: registry.d and the agent's own state directory."""

    def __init__(self, registry: Directory, state: Directory, backups: Directory) -> None:
        """Take open directories; the caller closes them."""
        self._registry = registry
        self._state = state
        self._backups = backups

    def run(self, operation: plan.Operation) -> None:
        """Carry out one operation durably; raises DiskFailed or Obstructed."""
        match operation:
            case plan.RemoveLeftovers(paths=paths, state_names=state_names):
                self._remove_leftovers(paths)
                for name in state_names:
                    self._state.remove(name)
            case plan.RecordOurs(names=names):
                _record(self._state, RECORD_FILE, names, mode=SECRET_MODE)
            case plan.RecordState(names=names):
                _record(self._registry, STATE_FILE, names, mode=PUBLIC_MODE)
            case plan.SaveForeign() | plan.RestoreForeign() | plan.DropBackup():
                self._keep_foreign(operation)
            case plan.SyncRegistryDirectory():
                self._registry.sync()
            case _:
                self._change_host(operation)

    def _keep_foreign(self, operation: plan.SaveForeign | plan.RestoreForeign | plan.DropBackup) -> None:
        match operation:
            case plan.SaveForeign(host=host):
                backup.save(self._registry, self._backups, host)
            case plan.RestoreForeign(host=host, names=names):
                backup.restore(self._registry, self._backups, host, names)
            case plan.DropBackup(host=host):
                self._backups.remove(host)
                self._backups.sync()
            case _:
                assert_never(operation)

    def _change_host(
        self,
        operation: plan.ClearPath
        | plan.PublishHost
        | plan.FixDirectory
        | plan.ReplaceFiles
        | plan.RemoveFiles
        | plan.RetireHost,
    ) -> None:
        match operation:
            case plan.ClearPath(host=host, name=name):
                self._clear(host, name)
            case plan.PublishHost(directory=directory):
                self._publish(directory)
            case plan.FixDirectory(host=host):
                with self._registry.child(host) as child:
                    child.set_mode(HOST_DIRECTORY_MODE)
            case plan.ReplaceFiles(host=host, files=files):
                self._replace(host, files)
            case plan.RemoveFiles(host=host, names=names):
                self._remove(host, names)
            case plan.RetireHost(host=host, names=names):
                self._remove(host, names)
                self._registry.remove_empty(host)
                self._registry.sync()
            case _:
                assert_never(operation)

    def _remove_leftovers(self, paths: tuple[str, ...]) -> None:
        for path in paths:
            host, _, name = path.rpartition("/")
            if host:
                with self._registry.child(host) as child:
                    child.remove(name)
            else:
                self._registry.remove(name)

    def _clear(self, host: str, name: str | None) -> None:
        if name is None:
            self._registry.remove(host)
            return
        with self._registry.child(host) as child:
            child.remove(name)

    def _publish(self, directory: HostDirectory) -> None:
        """Build the directory under a temporary name and rename it: no half of it is ever seen."""
        staged = f"{TEMPORARY_PREFIX}{secrets.token_hex(4)}"
        try:
            with self._registry.make_child(staged, mode=HOST_DIRECTORY_MODE) as child:
                for file in directory.files:
                    child.create(file.name, file.content, mode=file.mode)
                child.sync()
            self._registry.rename(staged, directory.name)
        except AgentError:
            self._registry.discard(staged)
            raise

    def _replace(self, host: str, files: tuple[File, ...]) -> None:
        """Replace files in order; what hosts.toml refers to is durable before hosts.toml is."""
        with self._registry.child(host) as child:
            for _, group in groupby(files, key=lambda file: file.name == HOSTS_TOML):
                for file in group:
                    child.replace(file.name, file.content, mode=file.mode)
                child.sync()

    def _remove(self, host: str, names: tuple[str, ...]) -> None:
        with self._registry.child(host) as child:
            for name in names:
                child.remove(name)
            child.sync()


def _record(directory: Directory, name: str, names: frozenset[str], *, mode: int) -> None:
    directory.replace(name, write_names(names), mode=mode)
    directory.sync()
