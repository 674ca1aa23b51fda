"""Peers of row 10, each in a process of its own: kube_peers.py NAME KUBECONFIG.

Prints [CPU seconds, objects] of one list of the InferenceServices (`lightkube`, `kr8s`,
`kubernetes`) or of the pods (`kubernetes-pods`, typed), imports and connecting left out.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable

Once = Callable[[], int]

GROUP, NAMESPACE = "serving.kserve.io", "models"


def lightkube_list(kubeconfig: str) -> Once:
    from lightkube import Client, KubeConfig
    from lightkube.generic_resource import create_namespaced_resource

    kind = create_namespaced_resource(GROUP, "v1beta1", "InferenceService", "inferenceservices")
    client = Client(config=KubeConfig.from_file(kubeconfig), namespace=NAMESPACE)
    return lambda: len(list(client.list(kind)))


def kr8s_list(kubeconfig: str) -> Once:
    import kr8s
    from kr8s.objects import new_class

    kind = new_class("InferenceService", f"{GROUP}/v1beta1", namespaced=True)
    api = kr8s.api(kubeconfig=kubeconfig)
    return lambda: len(list(kind.list(namespace=NAMESPACE, api=api)))


def kubernetes_list(kubeconfig: str) -> Once:
    from kubernetes import client, config

    config.load_kube_config(kubeconfig)
    api = client.CustomObjectsApi()
    return lambda: len(
        api.list_namespaced_custom_object(GROUP, "v1beta1", NAMESPACE, "inferenceservices")["items"]
    )


def kubernetes_pods(kubeconfig: str) -> Once:
    from kubernetes import client, config

    config.load_kube_config(kubeconfig)
    api = client.CoreV1Api()
    return lambda: len(api.list_namespaced_pod(NAMESPACE).items)


PEERS = {
    "lightkube": lightkube_list,
    "kr8s": kr8s_list,
    "kubernetes": kubernetes_list,
    "kubernetes-pods": kubernetes_pods,
}


def main() -> None:
    once = PEERS[sys.argv[1]](sys.argv[2])
    once()
    began = time.process_time()
    count = once()
    print(json.dumps([time.process_time() - began, count]))


main()
