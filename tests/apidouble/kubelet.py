"""A Node as a kubelet registers it."""

from tests.apidouble.stored import Object


def node(name: str, internal_ip: str, runtime_version: str, now: str) -> Object:
    """Return a Node that is ready."""
    labels = {"kubernetes.io/arch": "amd64", "kubernetes.io/hostname": name, "kubernetes.io/os": "linux"}
    ready = {"type": "Ready", "status": "True", "reason": "KubeletReady", "message": "kubelet is posting ready status"}
    resources = {"cpu": "4", "memory": "16384000Ki", "pods": "110"}
    return {
        "metadata": {"name": name, "labels": labels, "annotations": {}},
        "spec": {"podCIDR": "10.111.0.0/24", "podCIDRs": ["10.111.0.0/24"]},
        "status": {
            "capacity": resources,
            "allocatable": resources,
            "conditions": [{**ready, "lastHeartbeatTime": now, "lastTransitionTime": now}],
            "addresses": [{"type": "InternalIP", "address": internal_ip}, {"type": "Hostname", "address": name}],
            "daemonEndpoints": {"kubeletEndpoint": {"Port": 10250}},
            "nodeInfo": {
                "machineID": "",
                "systemUUID": "",
                "bootID": "",
                "kernelVersion": "6.1.0",
                "osImage": "Debian",
                "containerRuntimeVersion": runtime_version,
                "kubeletVersion": "v1.36.0",
                "kubeProxyVersion": "",
                "operatingSystem": "linux",
                "architecture": "amd64",
            },
        },
    }
