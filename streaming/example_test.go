package streaming_test

import (
	"context"
	"fmt"
	"net/http"
	"net/url"
	"os"
	"strings"

	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/remotecommand"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/cridock/cridock/streaming"
)

// shell is a Runtime whose containers have one command, which repeats its
// arguments and fails.
type shell struct{}

func (shell) Exec(_ context.Context, containerID string, cmd []string, s streaming.Streams) error {
	if _, err := fmt.Fprintf(s.Stdout, "%s: %s\n", containerID, strings.Join(cmd, " ")); err != nil {
		return err
	}
	return streaming.ExitError(3)
}

func (shell) Attach(context.Context, string, streaming.Streams) error { return nil }

func (shell) NetNS(context.Context, string) (*os.File, error) { return nil, nil }

// The kubelet calls Exec, and passes the URL on to a client such as kubectl, which
// can open it once.
func ExampleServer() {
	server, err := streaming.New(streaming.Config{}, shell{}) // a free port on loopback
	if err != nil {
		fmt.Println(err)
		return
	}
	ctx, stop := context.WithCancel(context.Background())
	defer stop()
	if err := server.Listen(ctx); err != nil {
		fmt.Println(err)
		return
	}
	done := make(chan error, 1)
	go func() { done <- server.Run(ctx) }()

	exec, err := server.Exec(&runtimeapi.ExecRequest{ContainerId: "web", Cmd: []string{"echo", "hello"}, Stdout: true})
	if err != nil {
		fmt.Println(err)
		return
	}
	target, err := url.Parse(exec.Url)
	if err != nil {
		fmt.Println(err)
		return
	}
	client, err := remotecommand.NewSPDYExecutor(&rest.Config{Host: target.Host}, http.MethodPost, target)
	if err != nil {
		fmt.Println(err)
		return
	}
	err = client.StreamWithContext(ctx, remotecommand.StreamOptions{Stdout: os.Stdout})
	fmt.Println(err)

	stop()
	fmt.Println(<-done)
	// Output:
	// web: echo hello
	// command terminated with exit code 3
	// <nil>
}
