package translate

import (
	"bytes"
	"encoding/json"
	"flag"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/docker/docker/api/types/container"
	"github.com/google/go-cmp/cmp"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
)

var update = flag.Bool("update", false, "write the golden files anew")

const (
	sandboxID   = "5a0db0000000000000000000000000000000000000000000000000000000000f"
	containerID = "c0d7a1000000000000000000000000000000000000000000000000000000000f"
	pauseID     = "sha256:9a05e00000000000000000000000000000000000000000000000000000000000"
	imageID     = "sha256:1a6e000000000000000000000000000000000000000000000000000000000000"
)

// goldenCase is a testdata/CASE.cri.json: a sandbox, or a container in it.
type goldenCase struct {
	Comment        string
	Host           Host
	PodSandbox     json.RawMessage
	RuntimeHandler string
	ResolvConf     string
	Network        string
	SeccompProfile string

	Container json.RawMessage
	Image     Image
	Mounts    []ResolvedMount
	Devices   []container.DeviceMapping
	Passwd    string
	Group     string
}

// translate returns the result of the case's request.
func (c goldenCase) translate(t *testing.T) (*Create, error) {
	t.Helper()
	req := SandboxRequest{
		Config:         message(t, c.PodSandbox, new(runtimeapi.PodSandboxConfig)),
		RuntimeHandler: c.RuntimeHandler,
		ImageID:        pauseID,
		ResolvConf:     c.ResolvConf,
		Network:        c.Network,
		SeccompProfile: []byte(c.SeccompProfile),
	}
	c.Host.Seal = testSeal
	created, err := DockerSandbox(req, c.Host)
	if c.Container == nil || err != nil {
		return created, err
	}
	sandbox, err := ReadSandbox(inspect(created, sandboxID), nil, c.Host)
	if err != nil {
		t.Fatalf("the sandbox can't be read back: %v", err)
	}
	cfg := message(t, c.Container, new(runtimeapi.ContainerConfig))
	if c.Mounts == nil {
		c.Mounts = make([]ResolvedMount, len(cfg.GetMounts()))
	}
	user, err := ResolveUser(cfg.GetLinux().GetSecurityContext(), c.Image.User, []byte(c.Passwd), []byte(c.Group))
	if err != nil {
		return nil, err
	}
	c.Image.ID = imageID
	return DockerContainer(ContainerRequest{
		Config: cfg, Sandbox: sandbox, Image: c.Image, Mounts: c.Mounts, Devices: c.Devices,
		SeccompProfile: []byte(c.SeccompProfile), User: user,
	}, c.Host)
}

// TestGolden compares testdata/CASE.cri.json with testdata/CASE.docker.json.
func TestGolden(t *testing.T) {
	inputs, err := filepath.Glob("testdata/*.cri.json")
	if err != nil || len(inputs) == 0 {
		t.Fatalf("no cases: %v", err)
	}
	for _, input := range inputs {
		t.Run(strings.TrimSuffix(filepath.Base(input), ".cri.json"), func(t *testing.T) {
			var c goldenCase
			decoder := json.NewDecoder(bytes.NewReader(read(t, input)))
			decoder.DisallowUnknownFields()
			if err := decoder.Decode(&c); err != nil {
				t.Fatal(err)
			}
			created, err := c.translate(t)
			var got []byte
			if err != nil {
				got = indent(t, map[string]string{"error": err.Error()})
			} else {
				// They are computed from the rest.
				delete(created.Config.Labels, LabelRequest)
				delete(created.Config.Labels, LabelSeal)
				got = indent(t, created)
			}
			golden := strings.TrimSuffix(input, ".cri.json") + ".docker.json"
			if *update {
				if err := os.WriteFile(golden, got, 0o644); err != nil {
					t.Fatal(err)
				}
			}
			if diff := cmp.Diff(string(read(t, golden)), string(got)); diff != "" {
				t.Errorf("%s (-want +got, see -update):\n%s", golden, diff)
			}
		})
	}
}

func message[M proto.Message](t *testing.T, raw json.RawMessage, m M) M {
	t.Helper()
	if err := protojson.Unmarshal(raw, m); err != nil {
		t.Fatal(err)
	}
	return m
}

func read(t *testing.T, file string) []byte {
	t.Helper()
	content, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	return content
}

func indent(t *testing.T, v any) []byte {
	t.Helper()
	var b bytes.Buffer
	encoder := json.NewEncoder(&b)
	encoder.SetEscapeHTML(false)
	encoder.SetIndent("", "  ")
	if err := encoder.Encode(v); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// inspect returns Docker's inspect response for a container just created.
func inspect(c *Create, id string) container.InspectResponse {
	config, hostConfig := *c.Config, *c.HostConfig
	return container.InspectResponse{
		ContainerJSONBase: &container.ContainerJSONBase{
			ID:         id,
			Name:       "/" + c.Name,
			Created:    "2026-03-01T10:00:00.123456789Z",
			Image:      c.Config.Image,
			State:      &container.State{Status: container.StateCreated, StartedAt: zeroTime, FinishedAt: zeroTime},
			HostConfig: &hostConfig,
		},
		Config:          &config,
		NetworkSettings: &container.NetworkSettings{},
	}
}

const zeroTime = "0001-01-01T00:00:00Z"
