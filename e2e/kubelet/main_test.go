package kubelet

import (
	"os"
	"testing"
)

// scenarios run under every kubelet, in parallel.
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
	"user namespace":     testUserNamespace,
	"resources":          testResources,
	"OOM":                testOOM,
	"termination":        testTerminationMessage,
	"preStop and grace":  testGrace,
	"killed after grace": testGraceExpires,
	"image pull":         testImagePull,
	"statistics":         testStatistics,

	"exec with own users":         withOwnUsers(testExec),
	"attach with own users":       withOwnUsers(testAttach),
	"port-forward with own users": withOwnUsers(testPortForward),
	"shared PIDs with own users":  withOwnUsers(testSharedPIDs),
	"OOM with own users":          withOwnUsers(testOOM),
	"statistics with own users":   withOwnUsers(testStatistics),
}

// clusterScenarios need an API server.
var clusterScenarios = map[string]func(*testing.T, *kubelet){
	"node":              testNode,
	"runtime class":     testRuntimeClass,
	"no runtime":        testNoRuntime,
	"config map":        testConfigMap,
	"probes":            testProbes,
	"deletion":          testDeletion,
	"forced deletion":   testForcedDeletion,
	"ephemeral":         testEphemeral,
	"resize":            testResize,
	"resize below use":  testResizeBelowUse,
	"resize of the pod": testResizePod,

	"config map with own users":        withOwnUsers(testConfigMap),
	"probes with own users":            withOwnUsers(testProbes),
	"ephemeral with own users":         withOwnUsers(testEphemeral),
	"resize with own users":            withOwnUsers(testResize),
	"resize below use with own users":  withOwnUsers(testResizeBelowUse),
	"resize of the pod with own users": withOwnUsers(testResizePod),
}

// TestKubelet runs all scenarios with static pods and the kubelet's default
// features, and with an API server's pods and the features that rely more on
// the CRI; those that need the API server also run with the default features.
// Then it lets a kubelet collect images. One pod runs through all of it,
// including restarts of the kubelet and of cridock.
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
		tests    []map[string]func(*testing.T, *kubelet)
	}{
		{"static pods", settings{}, []map[string]func(*testing.T, *kubelet){scenarios}},
		{"API server", settings{api: true}, []map[string]func(*testing.T, *kubelet){clusterScenarios}},
		{"CRI features", settings{api: true, gates: map[string]bool{
			"PodAndContainerStatsFromCRI": true, "CRIListStreaming": true, "EventedPLEG": true,
		}}, []map[string]func(*testing.T, *kubelet){scenarios, clusterScenarios}},
		{"image collection", settings{collectImages: true}, []map[string]func(*testing.T, *kubelet){{"images": testImageCollection}}},
	} {
		t.Run(mode.name, func(t *testing.T) { underKubelet(t, n, mode.settings, &survivor, mode.tests...) })
	}
	if survivor.pod != nil {
		return // -run has left out the subtest that ends it
	}
	left, err := n.leftovers()
	if err != nil {
		t.Error(err)
	}
	for _, what := range left {
		t.Errorf("left behind on the node: %s", what)
	}
}

// underKubelet starts cridock and a kubelet, runs tests, and checks the
// kubelet's complaints.
func underKubelet(t *testing.T, n *node, s settings, survivor *survivor, tests ...map[string]func(*testing.T, *kubelet)) {
	if s.collectImages {
		if err := n.importUnused(); err != nil {
			t.Fatal(err)
		}
	}
	cridock, err := n.startCridock()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := cridock.stop(); err != nil {
			t.Error(err)
		}
	})
	var api *apiServer
	if s.api {
		if api, err = n.startAPIServer(); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() {
			if err := api.stop(); err != nil {
				t.Error(err)
			}
		})
		if err := api.createRuntimeClasses(n); err != nil {
			t.Fatal(err)
		}
	}
	k, err := n.startKubelet(s, api)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := k.stop(); err != nil {
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
		for _, tests := range tests {
			for name, test := range tests {
				t.Run(name, func(t *testing.T) {
					t.Parallel()
					test(t, k)
				})
			}
		}
	})
	if k.api != nil {
		k.checkWarnings(t)
	}
	k.checkGone(t, survivor.pod)
	if s.collectImages { // the last one
		survivor.end(t)
	}
}
