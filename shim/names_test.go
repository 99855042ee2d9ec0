package shim_test

import (
	"net/http"
	"testing"
)

// TestNameOfCreationInProgress: Docker reserves the name of a container that it does not
// show yet, for a client that has gone.
func TestNameOfCreationInProgress(t *testing.T) {
	n := newNode(t)
	const attempts = 3
	inProgress := func() {
		n.docker.ResetCalls()
		for nth := range attempts {
			n.docker.FailNext("container create", nth+1, http.StatusConflict, "Conflict. The container name is already in use")
		}
	}
	free := func() {
		t.Helper()
		if got := n.docker.Calls()["container create"]; got != attempts+1 {
			t.Errorf("create was called %d times, want %d", got, attempts+1)
		}
	}
	inProgress()
	pod := n.runPod(n.podConfig("web"))
	free()
	n.create(pod, containerConfig("warm", "sleep", "1")) // reads the image's accounts
	inProgress()
	n.create(pod, containerConfig("main", "sleep", "1"))
	free()
}
