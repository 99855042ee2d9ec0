package translate

import (
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// Annotations of a pod with the size of its /dev/shm, a Kubernetes quantity: CRI-O's,
// and its older name for it, over which the first one takes precedence.
const (
	shmSizeAnnotation      = "shm-size.crio.io"
	olderShmSizeAnnotation = "io.kubernetes.cri-o.ShmSize"
)

// Bounds of /dev/shm in bytes: one page, and more memory than a node has. What a pod
// writes there counts as memory of its containers.
const (
	minShmSize = 4 << 10
	maxShmSize = 1 << 40
)

// podShmSize returns the size of a pod's /dev/shm in bytes.
func podShmSize(cfg *runtimeapi.PodSandboxConfig) (int64, error) {
	for _, key := range []string{shmSizeAnnotation, olderShmSizeAnnotation} {
		text, ok := cfg.GetAnnotations()[key]
		if !ok {
			continue
		}
		field := "annotations[" + key + "]"
		size, ok := parseQuantity(text)
		switch {
		case !ok:
			return 0, invalid(field, "%q is not a quantity like 64Mi", text)
		case size < minShmSize || size > maxShmSize:
			return 0, invalid(field, "%q is not in 4Ki..1Ti", text)
		case isHost(sandboxNamespaces(cfg).GetIpc()):
			return 0, invalid(field, "not allowed with the host's IPC namespace, whose /dev/shm the pod has")
		}
		return size, nil
	}
	return shmSize, nil
}
