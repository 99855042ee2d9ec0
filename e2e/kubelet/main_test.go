package kubelet

import (
	"errors"
	"os"
	"testing"
)

// scenarios are run under every kubelet, all at a time.
var scenarios = map[string]func(*testing.T, *kubelet){
	"running":            testRunning,
	"localhost":          testLocalhost,
	"init and sidecar":   testInitAndSidecar,
	"crash loop":         testCrashLoop,
	"liveness exec":      testLiveness,
	"readiness http":     testReadiness,
	"probe timeout":      testProbeTimeout,
	"logs":               testLogs,
	"log rotation":       testLogRotation,
	"exec":               testExec,
	"attach":             testAttach,
	"port-forward":       testPortForward,
	"host port":          testHostPort,
	"host network":       testHostNetwork,
	"shared PIDs":        testSharedPIDs,
	"volumes":            testVolumes,
	"image volume":       testImageVolume,
	"security context":   testSecurityContext,
	"resources":          testResources,
	"OOM":                testOOM,
	"termination":        testTerminationMessage,
	"preStop and grace":  testGrace,
	"killed after grace": testGraceExpires,
	"image pull":         testImagePull,
	"statistics":         testStatistics,
}

// TestKubelet runs all scenarios with the kubelet's default features and with
// those that rest on the CRI more, then lets a kubelet collect images. One pod
// lives through all of it, restarts of the kubelet and of cridock included.
func TestKubelet(t *testing.T) {
	if os.Getenv("CRIDOCK_E2E_KUBELET") == "" {
		t.Skip("CRIDOCK_E2E_KUBELET is not set; hack/kubelet.sh sets it")
	}
	n := thisNode()
	if err := n.writeCNI(); err != nil {
		t.Fatal(err)
	}
	var survivor survivor
	for _, mode := range []struct {
		name     string
		settings settings
		tests    map[string]func(*testing.T, *kubelet)
	}{
		{"defaults", settings{}, scenarios},
		{"CRI features", settings{gates: map[string]bool{
			"PodAndContainerStatsFromCRI": true, "CRIListStreaming": true, "EventedPLEG": true,
		}}, scenarios},
		{"image collection", settings{collectImages: true}, map[string]func(*testing.T, *kubelet){"images": testImageCollection}},
	} {
		t.Run(mode.name, func(t *testing.T) { underKubelet(t, n, mode.settings, &survivor, mode.tests) })
	}
	if survivor.pod != nil {
		return // by -run, its end has been left out
	}
	left, err := n.leftovers()
	if err != nil {
		t.Error(err)
	}
	for _, what := range left {
		t.Errorf("left behind on the node: %s", what)
	}
}

// underKubelet starts cridock and a kubelet, runs tests, and looks at what the
// kubelet had to complain of.
func underKubelet(t *testing.T, n *node, s settings, survivor *survivor, tests map[string]func(*testing.T, *kubelet)) {
	if s.collectImages {
		if err := n.importUnused(); err != nil {
			t.Fatal(err)
		}
	}
	cridock, err := n.startCridock()
	if err != nil {
		t.Fatal(err)
	}
	k, err := n.startKubelet(s)
	if err != nil {
		t.Fatal(errors.Join(err, cridock.stop()))
	}
	t.Cleanup(func() {
		if err := errors.Join(k.stop(), cridock.stop()); err != nil {
			t.Error(err)
		}
		complaints, err := k.complaints()
		if err != nil {
			t.Error(err)
		}
		for _, line := range complaints {
			t.Errorf("the kubelet complains: %s", line)
		}
	})
	survivor.check(t, k)
	t.Run("scenarios", func(t *testing.T) {
		for name, test := range tests {
			t.Run(name, func(t *testing.T) {
				t.Parallel()
				test(t, k)
			})
		}
	})
	k.checkGone(t, survivor.pod)
	if s.collectImages { // the last one
		survivor.end(t)
	}
}
