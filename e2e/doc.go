// Package e2e tests the built cridock: its binary, against real Docker Engines,
// a real registry and real CNI plugins. Nothing in it is a stand-in, and it
// imports nothing of cridock's: like a kubelet it knows the CRI, and like an
// administrator it knows Docker, the network and the file system.
//
// A cridock takes all Kubernetes containers of its engine for its own, so each
// one here has a node to itself: a private engine in its own network, mount and
// PID namespace (hack/engine.sh), in which that cridock runs as well. Most tests
// share two nodes, one networked by CNI and one by Docker; tests that kill, break
// or restart something make their own. When a node ends, everything that cridock
// ever made on it has to be gone.
//
// hack/test.sh runs the tests. CRIDOCK_E2E_DOCKER says that it does; without it
// they are skipped. Its engine is left alone, its directory and namespaces hold
// the nodes.
package e2e
