"""Manifests of Kubernetes and KServe, as text, and what scales them: pods are added while requests wait.

How many wait, at any moment, is what the time tells that they have waited: Triton counts it in microseconds for every
model (``nv_inference_queue_duration_us``), and a second in which n requests wait adds n seconds to it.
"""

from __future__ import annotations

from collections.abc import Sequence

from lit_deploy.packaging.serving import NO_TELEMETRY, Serving, kubernetes_name

QUEUED = "nv_inference_queue_duration_us"
"""Triton's counter, by model."""

WAITING = "triton_waiting_requests"
"""What it is called once the rule has made a number of waiting requests of it."""

MOST_WAITING = 1
"""Requests that may wait for each pod, on average over ``_WINDOW``, before there is another."""

PROMETHEUS = "http://prometheus-server.monitoring.svc.cluster.local"
"""Where its chart puts it, in a namespace of that name."""

MOST_PODS = 4
_WINDOW = "2m"
_BUSY = "{type: Resource, resource: {name: cpu, target: {type: Utilization, averageUtilization: 70}}}"


def deployment(serving: Serving) -> str:
    """Deployment and Service, and on the CPU a HorizontalPodAutoscaler, as one YAML file."""
    plain = kubernetes_name(serving.name)
    name, claim = _quoted(plain), _quoted(f"{plain}-models")
    command = serving.command("/models", "--exit-timeout-secs=30")
    parts = [
        f"""\
apiVersion: apps/v1
kind: Deployment
metadata:
  name: {name}
  labels: {{app: {name}}}
spec:
  # no replicas: an autoscaler sets them, and without one it is 1
  selector:
    matchLabels: {{app: {name}}}
  template:
    metadata:
      labels: {{app: {name}}}
      annotations: {{prometheus.io/scrape: "true", prometheus.io/port: "8002"}}
    spec:
      terminationGracePeriodSeconds: 60  # more than preStop, and --exit-timeout-secs, in which requests are finished
      containers:
        - name: triton
          image: {_quoted(serving.pulled)}
          args: {_list(command)}
          env: [{{name: {NO_TELEMETRY}, value: "1"}}]
          lifecycle:  # requests come until every node knows that this pod is going
            preStop: {{exec: {{command: [sleep, "10"]}}}}
          ports:
            - {{name: http, containerPort: 8000}}
            - {{name: grpc, containerPort: 8001}}
            - {{name: metrics, containerPort: 8002}}
          startupProbe:  # loading and warm-up take their time: ten minutes at most
            httpGet: {{path: /v2/health/ready, port: http}}
            periodSeconds: 5
            failureThreshold: 120
          readinessProbe:
            httpGet: {{path: /v2/health/ready, port: http}}
            periodSeconds: 5
          livenessProbe:
            httpGet: {{path: /v2/health/live, port: http}}
            periodSeconds: 10
            timeoutSeconds: 5
{_resources(serving, " " * 10)}
          securityContext: {{allowPrivilegeEscalation: false}}
          volumeMounts:
            - {{name: models, mountPath: /models, readOnly: true}}
            - {{name: shared-memory, mountPath: /dev/shm}}
      volumes:
        - name: models
          persistentVolumeClaim: {{claimName: {claim}, readOnly: true}}
        - name: shared-memory
          emptyDir: {{medium: Memory, sizeLimit: {serving.shared_memory_mib}Mi}}
""",
        f"""\
apiVersion: v1
kind: Service
metadata:
  name: {name}
  labels: {{app: {name}}}
spec:
  selector: {{app: {name}}}
  ports:
    - {{name: http, port: 8000, targetPort: http}}
    - {{name: grpc, port: 8001, targetPort: grpc}}
    - {{name: metrics, port: 8002, targetPort: metrics}}
""",
    ]
    if serving.device == "cpu":  # how busy a GPU is, an autoscaler does not know without a metrics adapter
        parts.append(_autoscaler(serving, _BUSY))
    return "---\n".join(parts)


def autoscaler(serving: Serving) -> str:
    """A HorizontalPodAutoscaler by waiting requests, instead of the one by CPU; on the CPU by both: the larger counts.

    Selectors take no values of more than 63 characters: with such a name all models of a pod count.
    """
    models = _list(serving.queued) if max(map(len, serving.queued)) <= 63 else None
    selector = f"{{matchExpressions: [{{key: model, operator: In, values: {models}}}]}}" if models else "{}"
    waiting = f"""\
type: Pods
      pods:
        metric:
          name: {WAITING}
          selector: {selector}
        target: {{type: AverageValue, averageValue: "{MOST_WAITING}"}}"""
    return _autoscaler(serving, waiting, *([_BUSY] if serving.device == "cpu" else []))


def adapter_rule() -> str:
    """Values of prometheus-adapter's Helm chart, by which Kubernetes learns how many requests wait."""
    return f"""\
# Values of the Helm chart prometheus-adapter; one rule for all models. Prometheus has to scrape the pods, and to call
# their labels namespace and pod, as its chart does for pods with the annotation prometheus.io/scrape.
rules:
  custom:
    - seriesQuery: '{QUEUED}{{namespace!="",pod!=""}}'
      resources: {{overrides: {{namespace: {{resource: namespace}}, pod: {{resource: pod}}}}}}
      name: {{as: {WAITING}}}
      metricsQuery: 'sum(rate(<<.Series>>{{<<.LabelMatchers>>}}[{_WINDOW}])) by (<<.GroupBy>>) / 1e6'
"""


def _autoscaler(serving: Serving, *metrics: str) -> str:
    name, listed = _quoted(kubernetes_name(serving.name)), "\n".join(f"    - {metric}" for metric in metrics)
    return f"""\
apiVersion: autoscaling/v2
kind: HorizontalPodAutoscaler
metadata:
  name: {name}
spec:
  scaleTargetRef: {{apiVersion: apps/v1, kind: Deployment, name: {name}}}
  minReplicas: 1
  maxReplicas: {MOST_PODS}
  metrics:
{listed}
  behavior:  # one pod less in five minutes: with fewer pods more requests wait
    scaleDown: {{policies: [{{type: Pods, value: 1, periodSeconds: 300}}]}}
"""


def kserve(serving: Serving) -> str:
    """A ServingRuntime of the image and an InferenceService on it; KServe mounts what it is given at /mnt/models."""
    runtime = _quoted(f"{kubernetes_name(serving.name)}-triton")
    command = serving.command("/mnt/models", "--http-port=8080", "--grpc-port=9000", "--exit-timeout-secs=30")
    return f"""\
apiVersion: serving.kserve.io/v1alpha1
kind: ServingRuntime
metadata:
  name: {runtime}
spec:
  supportedModelFormats:
    - {{name: triton, version: "2"}}
  protocolVersions: [v2, grpc-v2]
  containers:
    - name: kserve-container
      image: {_quoted(serving.pulled)}
      args: {_list(command)}
      env: [{{name: {NO_TELEMETRY}, value: "1"}}]
      ports:
        - {{containerPort: 8080, protocol: TCP}}
      readinessProbe:
        httpGet: {{path: /v2/health/ready, port: 8080}}
        periodSeconds: 5
{_resources(serving, " " * 6)}
      volumeMounts:
        - {{name: shared-memory, mountPath: /dev/shm}}
  volumes:
    - name: shared-memory
      emptyDir: {{medium: Memory, sizeLimit: {serving.shared_memory_mib}Mi}}
---
{inference_service(serving)}"""


def kserve_autoscaled(serving: Serving) -> str:
    """The same InferenceService, of which KEDA has as many pods as its waiting requests need.

    Source: KServe's custom resource definition (v0.15 on), https://kserve.github.io/website.
    """
    models = "|".join(model.replace(".", "[.]") for model in serving.queued)
    query = f'sum(rate({QUEUED}{{model=~"{models}"}}[{_WINDOW}])) / 1e6'
    annotations = """\
  annotations:
    serving.kserve.io/deploymentMode: RawDeployment  # from 0.16 on it is called Standard, too
    serving.kserve.io/autoscalerClass: keda
"""
    scaling = f"""\
    annotations: {{prometheus.io/scrape: "true", prometheus.io/port: "8002"}}
    autoScaling:
      metrics:
        - type: External
          external:
            metric:
              backend: prometheus
              serverAddress: {_quoted(PROMETHEUS)}  # yours
              query: {_quoted(query)}
            target: {{type: Value, value: "{MOST_WAITING}"}}  # waiting requests for each pod
"""
    return inference_service(serving, annotations, scaling)


def inference_service(serving: Serving, annotations: str = "", scaling: str = "") -> str:
    """An InferenceService on the runtime of ``kserve``, with further lines."""
    plain = kubernetes_name(serving.name)
    name, runtime = _quoted(plain), _quoted(f"{plain}-triton")
    return f"""\
apiVersion: serving.kserve.io/v1beta1
kind: InferenceService
metadata:
  name: {name}
{annotations}\
spec:
  predictor:
    minReplicas: 1
    maxReplicas: {MOST_PODS}
{scaling}\
    model:
      modelFormat: {{name: triton, version: "2"}}
      protocolVersion: v2
      runtime: {runtime}
      storageUri: pvc://{plain}-models  # or s3://, gs://, https://: the folder that holds the models
"""


def _resources(serving: Serving, indent: str) -> str:
    gpu = "1" if serving.device == "cuda" else None
    limits = f"memory: {serving.memory_mib}Mi" + (f', nvidia.com/gpu: "{gpu}"' if gpu else "")
    return (
        f"{indent}resources:  # estimates, of memory for images as large as they may be: measure, and set your own\n"
        f'{indent}  requests: {{cpu: "{serving.cpus}", {limits}}}\n'
        f"{indent}  limits: {{{limits}}}"
    )


def _quoted(text: str) -> str:
    """A YAML string; within double quotes YAML takes what JSON takes."""
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'


def _list(words: Sequence[str]) -> str:
    return f"[{', '.join(map(_quoted, words))}]"
