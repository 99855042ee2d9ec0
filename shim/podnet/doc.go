// Package podnet gives sandboxes their network: with CNI or, if there is none, on
// the network that Docker has connected them to. It pins the network namespaces,
// runs the CNI operations on them, and knows whether a sandbox's network is ready.
//
// The caller holds the pod's lock in every call that changes a pod's network. Sweep
// needs none: it works on pods that do not exist. What the readers find out about
// another adapter's pod is only remembered.
// The package never creates or removes a container.
package podnet
