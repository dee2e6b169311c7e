"""ValidatingAdmissionPolicies as the API server applies them, with Google's own CEL for the expressions."""

import contextlib
import functools
from collections.abc import Iterator, Mapping
from typing import Any

from cel_expr_python import cel

from tests.packaging.manifests import Manifest, of_kind

NODE_CLAIM = "authentication.kubernetes.io/node-name"
_NAMES = ("object", "oldObject", "request", "variables")
_ENVIRONMENT = cel.NewEnv(variables=dict.fromkeys(_NAMES, cel.Type.DYN))

Request = dict[str, Any]


class CelError(Exception):
    """An expression has no value."""


def request(
    resource: str,
    new: Mapping[str, Any],
    old: Mapping[str, Any] | None,
    *,
    user: str,
    node: str | None,
    subresource: str = "",
    group: str = "",
) -> Request:
    """Return what the API server asks about; `node` is the claim in the user's token, None for none."""
    info: dict[str, Any] = {"username": user, "groups": ["system:serviceaccounts", "system:authenticated"]}
    if node is not None:
        info["extra"] = {NODE_CLAIM: [node], "authentication.kubernetes.io/pod-name": ["registry-agent-x"]}
    return {
        "request": {
            "operation": "CREATE" if old is None else "UPDATE",
            "name": new["metadata"]["name"],
            "namespace": new["metadata"].get("namespace", ""),
            "resource": {"group": group, "version": "v1", "resource": resource},
            "subResource": subresource,
            "userInfo": info,
        },
        "object": dict(new),
        "oldObject": None if old is None else dict(old),
    }


def refusals(manifests: tuple[Manifest, ...], asked: Request) -> list[str]:
    """Return the messages of all policies that are bound and refuse a request."""
    bound = {
        binding["spec"]["policyName"]
        for binding in of_kind(manifests, "ValidatingAdmissionPolicyBinding")
        if binding["spec"]["validationActions"] == ["Deny"] and "matchResources" not in binding["spec"]
    }
    policies = of_kind(manifests, "ValidatingAdmissionPolicy")
    return [
        message
        for policy in policies
        if policy["metadata"]["name"] in bound
        for message in _refusals(policy["spec"], asked)
    ]


def _refusals(spec: Manifest, asked: Request) -> Iterator[str]:
    assert spec["failurePolicy"] == "Fail"
    if not any(_is_meant(rule, asked["request"]) for rule in spec["matchConstraints"]["resourceRules"]):
        return
    if not all(_value(each["expression"], asked) for each in spec.get("matchConditions", ())):
        return
    scope = {**asked, "variables": _variables(spec.get("variables", ()), asked)}
    for validation in spec["validations"]:
        assert validation["reason"] == "Forbidden"
        try:
            is_allowed = _value(validation["expression"], scope) is True
        except CelError:  # failurePolicy
            is_allowed = False
        if not is_allowed:
            yield validation["message"]


def _variables(found: list[Manifest], asked: Request) -> dict[str, Any]:
    """Return the variables; one that fails is missing, so that what uses it fails, too."""
    values: dict[str, Any] = {}
    for variable in found:
        with contextlib.suppress(CelError):
            values[variable["name"]] = _value(variable["expression"], {**asked, "variables": values})
    return values


def _is_meant(rule: Manifest, asked: Mapping[str, Any]) -> bool:
    resource, subresource = asked["resource"], asked["subResource"]
    target = f"{resource['resource']}/{subresource}" if subresource else resource["resource"]
    return (
        resource["group"] in rule["apiGroups"]
        and resource["version"] in rule["apiVersions"]
        and asked["operation"] in rule["operations"]
        and target in rule["resources"]
    )


@functools.cache
def _compiled(expression: str) -> Any:
    return _ENVIRONMENT.compile(expression)


def _value(expression: str, scope: Mapping[str, Any]) -> Any:
    found = _compiled(expression).eval(data={name: scope.get(name) for name in _NAMES})
    if found.type() == cel.Type.ERROR:
        raise CelError(f"{expression}: {found.plain_value()}")
    return found.plain_value()
