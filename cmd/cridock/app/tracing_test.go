package app

import (
	"crypto/tls"
	"net"
	"path/filepath"
	"strings"
	"testing"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/cridock/cridock/internal/testca"
	"github.com/cridock/cridock/internal/tracecollector"
)

// collect starts a collector.
func collect(t *testing.T, options ...grpc.ServerOption) *tracecollector.Collector {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	return tracecollector.Serve(t, l, options...)
}

// collectTLS starts a collector with TLS, and returns the file of its authority too.
func collectTLS(t *testing.T) (c *tracecollector.Collector, caFile string) {
	t.Helper()
	ca := testca.New(t, "ca")
	cert, key := ca.Issue(t, "collector")
	pair, err := tls.X509KeyPair(cert, key)
	if err != nil {
		t.Fatal(err)
	}
	caFile = filepath.Join(t.TempDir(), "ca.pem")
	write(t, caFile, string(ca.PEM))
	return collect(t, grpc.Creds(credentials.NewServerTLSFromCert(&pair))), caFile
}

// call makes a call that nobody traces, and stops the node.
func (n *node) call(t *testing.T) {
	t.Helper()
	if _, err := n.client.Version(t.Context(), &runtimeapi.VersionRequest{}); err != nil {
		t.Error(err)
	}
	n.stop() // flushes
}

// TestTracesByEnvironment: TLS, headers, sampling and attributes are the environment's.
func TestTracesByEnvironment(t *testing.T) {
	c, caFile := collectTLS(t)
	t.Setenv("OTEL_EXPORTER_OTLP_CERTIFICATE", caFile)
	t.Setenv("OTEL_EXPORTER_OTLP_HEADERS", "authorization=Bearer%20token,x-scope=node")
	t.Setenv("OTEL_TRACES_SAMPLER", "traceidratio")
	t.Setenv("OTEL_TRACES_SAMPLER_ARG", "1")
	t.Setenv("OTEL_SERVICE_NAME", "runtime-of-n1")
	t.Setenv("OTEL_RESOURCE_ATTRIBUTES", "host.name=n1")
	t.Setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:1") // the setting precedes it
	t.Setenv("OTEL_EXPORTER_OTLP_INSECURE", "true")               // as does its scheme
	startNode(t, "--tracing-endpoint=https://"+c.Addr()).call(t)
	found := false
	for _, s := range c.Spans() {
		found = found || strings.HasSuffix(s.Name, "/Version")
	}
	if !found {
		t.Error("the call is not traced")
	}
	headers, attributes := c.Sender()
	if strings.Join(headers.Get("authorization"), "") != "Bearer token" || strings.Join(headers.Get("x-scope"), "") != "node" {
		t.Errorf("headers %v", headers)
	}
	if attributes["service.name"] != "runtime-of-n1" || attributes["host.name"] != "n1" || attributes["service.version"] != "test" {
		t.Errorf("attributes %v", attributes)
	}
}

// TestTracesEndpointInEnvironment turns traces on in cridock's own process, but not in
// another program.
func TestTracesEndpointInEnvironment(t *testing.T) {
	c, caFile := collectTLS(t)
	t.Setenv("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "https://"+c.Addr())
	t.Setenv("OTEL_EXPORTER_OTLP_TRACES_CERTIFICATE", caFile)
	t.Setenv("OTEL_TRACES_SAMPLER", "always_on")
	startNode(t).call(t)
	if spans := c.Spans(); len(spans) > 0 {
		t.Errorf("another program has sent %d spans", len(spans))
	}
	startProcess(t).call(t)
	sent := len(c.Spans())
	if sent == 0 {
		t.Error("cridock has sent no spans")
	}
	if _, attributes := c.Sender(); attributes["service.name"] != "cridock" {
		t.Errorf("attributes %v", attributes)
	}
	t.Setenv("OTEL_SDK_DISABLED", "true")
	startProcess(t, "--tracing-endpoint=https://"+c.Addr()).call(t)
	if len(c.Spans()) != sent {
		t.Error("spans although OpenTelemetry is disabled")
	}
}

// TestTracesPlainSetting: an endpoint without a scheme has no TLS, whatever the
// environment says, and a collector of another authority gets nothing.
func TestTracesPlainSetting(t *testing.T) {
	plain := collect(t)
	encrypted, _ := collectTLS(t)
	_, otherCA := collectTLS(t)
	t.Setenv("OTEL_EXPORTER_OTLP_CERTIFICATE", otherCA)
	t.Setenv("OTEL_TRACES_SAMPLER", "always_on")
	startNode(t, "--tracing-endpoint="+plain.Addr()).call(t)
	if len(plain.Spans()) == 0 {
		t.Error("no spans without TLS")
	}
	startNode(t, "--tracing-endpoint=https://"+encrypted.Addr()).call(t)
	if spans := encrypted.Spans(); len(spans) > 0 {
		t.Errorf("a collector of another authority got %d spans", len(spans))
	}
}

// TestTraceVariables: what the SDK would replace by a default is an error.
func TestTraceVariables(t *testing.T) {
	for _, tc := range []struct {
		name, value, arg string
		wrong            bool
	}{
		{"OTEL_EXPORTER_OTLP_PROTOCOL", "grpc", "", false},
		{"OTEL_EXPORTER_OTLP_PROTOCOL", "http/protobuf", "", true},
		{"OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "http/json", "", true},
		{"OTEL_TRACES_EXPORTER", "otlp", "", false},
		{"OTEL_TRACES_EXPORTER", "zipkin", "", true},
		{"OTEL_TRACES_SAMPLER", "parentbased_traceidratio", "0.01", false},
		{"OTEL_TRACES_SAMPLER", "traceidratio", "", false},
		{"OTEL_TRACES_SAMPLER", "traceidratio", "1%", true},
		{"OTEL_TRACES_SAMPLER", "traceidratio", "1.5", true},
		{"OTEL_TRACES_SAMPLER", "traceidratio", "NaN", true},
		{"OTEL_TRACES_SAMPLER", "sometimes", "", true},
	} {
		t.Run(tc.name+"="+tc.value+" "+tc.arg, func(t *testing.T) {
			t.Setenv(tc.name, tc.value)
			t.Setenv("OTEL_TRACES_SAMPLER_ARG", tc.arg)
			flush, err := (&Options{TracingEndpoint: "127.0.0.1:1"}).startTracing(t.Context())
			if err == nil {
				flush()
			}
			if (err != nil) != tc.wrong || err != nil && !strings.Contains(err.Error(), tc.name) {
				t.Errorf("%v; want an error: %t", err, tc.wrong)
			}
		})
	}
}
