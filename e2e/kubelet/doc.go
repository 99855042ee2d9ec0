// Package kubelet tests cridock under a real kubelet, which runs static pods on
// it, and those that a real API server has; no network but the node's, no
// controller, no scheduler. Every assertion is on what the kubelet itself says -
// its API, its log, its files - or the API server, or on what can be seen from
// outside, as cgroups and ports.
//
// It is a module of its own, since the kubelet needs hundreds of others that
// cridock does not. Its commands are the kubelet and the API server of the
// release in go.mod, and their etcd.
//
// hack/kubelet.sh makes a node and runs the tests in its namespaces, see there
// for the environment. Without CRIDOCK_E2E_KUBELET they are skipped. The kubelet
// and cridock take all containers of their engine for their own: never set it
// to an engine that anything else uses.
package kubelet
