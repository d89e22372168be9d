"""A fake Kubernetes: an API server, a scheduler and a kubelet for tests, to which real clients talk over HTTP.

What it does: pods are created, listed, watched, patched, deleted and their logs followed as by a real API server, with
its validation, defaults, refusals and Status objects, bearer tokens and the rights of one Role. Pods are scheduled on
made-up nodes, wait for images, secrets and capacity, and *really run*, as processes of this machine. They end by
themselves or by deadline, eviction, memory, deletion or the loss of their node, and their status says so as a kubelet
would. Every request is kept.

What it does not do, so that no test may conclude it:
- No isolation. No mount namespace: a path below a mount works where a variable, an argument or the working directory
  names it, not where a program has it built in. Read-only root file systems, users, capabilities, seccomp, CPU limits,
  sizes of volumes and network policies are accepted and not enforced; memory limits only with `enforces_memory`.
  Processes aren't number 1 of a PID namespace, so one that doesn't handle SIGTERM dies of it; in a real container it
  would live on until SIGKILL. /dev/termination-log isn't read. GPUs are only counted.
- No restarts (`restartPolicy` must be Never), init containers, probes, finalizers, quotas, preemption, exec,
  service-account tokens, other volumes than emptyDir, secret and configMap, or other objects than pods, events and
  namespaces. Where a pod asks for such a thing that would change what happens, it is refused rather than run wrongly.
- One user, one Role for all namespaces, plain HTTP. Lists have one page, and old resource versions never expire.
"""

from fake_kubernetes.admission import ROLE, Rules
from fake_kubernetes.api import Access
from fake_kubernetes.cluster import NAMESPACE, FakeKubernetes
from fake_kubernetes.images import Image
from fake_kubernetes.scheduler import Node, Taint

__all__ = ["NAMESPACE", "ROLE", "Access", "FakeKubernetes", "Image", "Node", "Rules", "Taint"]
