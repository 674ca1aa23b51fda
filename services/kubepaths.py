"""Where the API server keeps what serves in one namespace. Every name is quoted: it is data."""

from __future__ import annotations

from dataclasses import dataclass

from services import kubeobject
from services.cluster import path_part
from services.domain import Json


@dataclass(frozen=True, slots=True)
class Paths:
    """API paths of one namespace's collections and things."""

    namespace: str

    @property
    def services(self) -> str:
        """InferenceServices."""
        return self._all(f"/apis/{kubeobject.API_VERSION}", "inferenceservices")

    def service(self, name: str) -> str:
        """One InferenceService."""
        return f"{self.services}/{path_part(name)}"

    @property
    def deployments(self) -> str:
        """Deployments, of which KServe makes one for a service in Standard mode."""
        return self._all("/apis/apps/v1", "deployments")

    def deployment(self, service: str) -> str:
        """The Deployment of a service in Standard mode."""
        return f"{self.deployments}/{path_part(kubeobject.predictor_name(service))}"

    @property
    def knative_services(self) -> str:
        """Knative Services, of which KServe makes one for a service in Knative mode."""
        return self._all("/apis/serving.knative.dev/v1", "services")

    def knative_service(self, service: str) -> str:
        """The Knative Service of a service in Knative mode."""
        return f"{self.knative_services}/{path_part(kubeobject.predictor_name(service))}"

    @property
    def revisions(self) -> str:
        """Knative's Revisions."""
        return self._all("/apis/serving.knative.dev/v1", "revisions")

    @property
    def releases(self) -> str:
        """ControllerRevisions, which the journal keeps releases in."""
        return self._all("/apis/apps/v1", "controllerrevisions")

    @property
    def pods(self) -> str:
        """Pods."""
        return self._all("/api/v1", "pods")

    def pod(self, name: str) -> str:
        """One pod."""
        return f"{self.pods}/{path_part(name)}"

    def pod_proxy(self, pod: Json) -> str:
        """The API server's proxy to the model server of a pod."""
        return f"{self.pod(pod['metadata']['name'])}:{kubeobject.port_of(pod)}/proxy"

    def service_proxy(self, service: str) -> str:
        """The API server's proxy to a service's pods, in Standard mode."""
        child = path_part(kubeobject.predictor_name(service))
        return f"{self._all('/api/v1', 'services')}/{child}:80/proxy"

    def ingress(self, service: str) -> str:
        """The Ingress that KServe makes for a service in Standard mode."""
        return f"{self._all('/apis/networking.k8s.io/v1', 'ingresses')}/{path_part(service)}"

    @property
    def events(self) -> str:
        """Events."""
        return self._all("/api/v1", "events")

    def _all(self, api: str, kind: str) -> str:
        return f"{api}/namespaces/{path_part(self.namespace)}/{kind}"
