package mirror

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
)

func TestProbeAll(t *testing.T) {
	good, broken := newUpstream(t), httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusBadGateway) }))
	t.Cleanup(broken.Close)
	good.user = "somebody" // it answers, even if it refuses
	dir := write(t, map[string]string{
		"_default/hosts.toml":       fmt.Sprintf("skip_verify = true\n[host.%q]", good.URL), // and each registry itself
		"README.md":                 "no directory",
		"r.test_5000_/hosts.toml":   fmt.Sprintf("[host.%q]\n[host.\"http://127.0.0.1:1\"]", broken.URL),
		"bad.test/hosts.toml":       "no = 1",
		"certs.test/ca.crt":         "x",
		"not_a_registry/hosts.toml": "no = 1",
	})
	probes, err := ProbeAll(t.Context(), dir)
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, p := range probes {
		text := p.Registry + " " + p.Host
		if p.Err != nil {
			text += ": " + p.Err.Error()
		}
		got = append(got, text)
	}
	want := []string{"_default " + good.URL + "/v2", "bad.test : mirrors of bad.test", "r.test_5000_ " + broken.URL + "/v2: 502", "r.test_5000_ http://127.0.0.1:1/v2: Get"}
	if len(got) != len(want) {
		t.Fatalf("probes %q, want %q", got, want)
	}
	for i := range want {
		if !strings.HasPrefix(got[i], want[i]) {
			t.Errorf("probe %q, want %q", got[i], want[i])
		}
	}
	if probes, err := ProbeAll(t.Context(), dir+"/none"); err != nil || len(probes) != 0 {
		t.Errorf("without a directory: %v, %v", probes, err)
	}
}
