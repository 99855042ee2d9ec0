package doctor

import (
	"bytes"
	"encoding/json"
	"errors"
	"strings"
	"testing"

	"github.com/docker/docker/api/types/system"
	"github.com/spf13/cobra"

	"github.com/cridock/cridock/shim/engine/enginetest"
)

// run runs the command on a healthy node with a Docker Engine.
func run(t *testing.T, x *tree, args ...string) (string, error) {
	t.Helper()
	var out bytes.Buffer
	cmd := NewCommand(func(*cobra.Command) (Settings, error) { return x.Settings, nil })
	cmd.SetArgs(args)
	cmd.SetOut(&out)
	cmd.SetErr(&out)
	cmd.SilenceErrors, cmd.SilenceUsage = true, true
	err := cmd.ExecuteContext(t.Context())
	return out.String(), err
}

// served is a healthy node whose engine is reached through its API.
func served(t *testing.T) (*tree, *enginetest.Server) {
	t.Helper()
	x := newTree(t)
	docker := enginetest.New(t)
	docker.SetInfo(func(i *system.Info) {
		i.LiveRestoreEnabled, i.CgroupDriver = true, "systemd"
		i.SecurityOptions = []string{"name=seccomp,profile=default", "name=apparmor", "name=selinux"}
	})
	x.DockerEndpoint = docker.Endpoint()
	return x, docker
}

func TestCommandReportsWhatTheEngineSays(t *testing.T) {
	x, docker := served(t)
	docker.SetInfo(func(i *system.Info) {
		i.LiveRestoreEnabled = false
		i.SecurityOptions = append(i.SecurityOptions, "name=no-new-privileges")
	})
	out, err := run(t, x, "-o", "json")
	var r Report
	if jsonErr := json.Unmarshal([]byte(out), &r); jsonErr != nil {
		t.Fatalf("%v, after %v: %s", jsonErr, err, out)
	}
	states := map[string]State{}
	for _, result := range r.Results {
		states[result.Check] = result.State
	}
	for check, want := range map[string]State{"engine": OK, "live-restore": Warning, "no-new-privileges": Warning, "cgroup": OK, "storage": OK} {
		if states[check] != want {
			t.Errorf("%s is %s, want %s\n%s", check, states[check], want, out)
		}
	}
	// cridock does not run, and its unit is enabled.
	if r.State != Error || !errors.Is(err, ExitError) {
		t.Errorf("state %s, %v", r.State, err)
	}
}

func TestCommandExitStatus(t *testing.T) {
	if _, err := run(t, newTree(t), "-o", "yaml"); err == nil || errors.As(err, new(Exit)) {
		t.Errorf("an unknown format: %v", err)
	}
	for _, tt := range []struct {
		state State
		want  error
	}{{OK, nil}, {Warning, ExitWarning}, {Error, ExitError}} {
		cmd := &cobra.Command{}
		cmd.SetOut(&bytes.Buffer{})
		if err := write(cmd, "text", Report{State: tt.state}); !errors.Is(err, tt.want) {
			t.Errorf("%s: %v, want %v", tt.state, err, tt.want)
		}
	}
}

func TestText(t *testing.T) {
	r := Report{State: Error, Results: []Result{
		ok("All is well.\n"),
		failure("Do this.", "Somebody said: %s", "\x1b[2Jwho\nare you?"),
		skipped("Nothing."), warning("Do that.", "Odd..."),
	}}
	for i, name := range []string{"one", "two", "three", "four"} {
		r.Results[i].Check = name
	}
	var out bytes.Buffer
	if err := r.Text(&out); err != nil {
		t.Fatal(err)
	}
	want := `ok       one                    All is well.
error    two                    Somebody said:  [2Jwho; are you?
                                -> Do this.
skipped  three                  Nothing.
warning  four                   Odd.
                                -> Do that.

1 ok, 1 skipped, 1 warnings, 1 errors
`
	if out.String() != want {
		t.Errorf("got:\n%s", out.String())
	}
	if strings.ContainsRune(out.String(), '\x1b') {
		t.Error("a control character")
	}
}
