package index_test

import (
	"context"
	"fmt"
	"os"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"github.com/docker/docker/api/types/container"

	"github.com/cridock/cridock/shim/engine"
	"github.com/cridock/cridock/shim/index"
	"github.com/cridock/cridock/translate"
)

// TestOnDocker follows a pod through its life on a real engine.
func TestOnDocker(t *testing.T) {
	endpoint := os.Getenv("CRIDOCK_E2E_DOCKER")
	if endpoint == "" {
		t.Skip("CRIDOCK_E2E_DOCKER names no engine")
	}
	image := os.Getenv("CRIDOCK_E2E_IMAGE")
	if image == "" {
		image = testImage
	}
	client, err := engine.New(endpoint, nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = client.Close() })
	f := &fixture{t: t, client: client, Index: index.New(client, index.Options{
		Host: func() translate.Host { return translate.Host{} },
		Connected: func(ctx context.Context) error {
			_, err := client.Refresh(ctx)
			return err
		},
	})}
	f.ready()
	s := f.subscribe(1000)
	pod := fmt.Sprintf("index-%d", time.Now().UnixNano())
	make := func(kind translate.Kind, name, sandbox string, argv ...string) string {
		t.Helper()
		id, err := client.ContainerCreate(t.Context(), fmt.Sprintf("k8s_%s_%s_default_uid_0", name, pod), &container.Config{
			Image: image, Cmd: argv, Labels: map[string]string{translate.LabelType: string(kind), translate.LabelSandboxID: sandbox},
		}, &container.HostConfig{NetworkMode: "none"}, nil)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() {
			if err := client.ContainerRemove(context.Background(), id); err != nil && !errdefs.IsNotFound(err) {
				t.Error(err)
			}
		})
		return id
	}
	sandbox := make(translate.KindSandbox, "POD", "", "sleep", "1000")
	f.expect(s, sandbox, created)
	f.run(sandbox)
	f.expect(s, sandbox, started)
	c := make(translate.KindContainer, "c", sandbox, "sh", "-c", "sleep 0.2; exit 6")
	f.expect(s, c, created)
	f.run(c)
	f.expect(s, c, started)
	if err := f.WaitExited(t.Context(), c); err != nil {
		t.Fatal(err)
	}
	if got := f.expect(s, c, stopped); got.Container.ExitCode != 6 || got.Pod.ID != sandbox || len(got.Members) != 1 {
		t.Errorf("exit: %+v", got)
	}
	f.remove(c)
	f.expect(s, c, deleted)
	if err := client.ContainerKill(t.Context(), sandbox, "SIGKILL"); err != nil {
		t.Fatal(err)
	}
	f.expect(s, sandbox, stopped)
	f.remove(sandbox)
	f.expect(s, sandbox, deleted)
	if found, ok, err := f.Image(t.Context(), image); err != nil || !ok || len(found.RepoTags) == 0 {
		t.Errorf("image %+v, %v, %v", found, ok, err)
	}
}
