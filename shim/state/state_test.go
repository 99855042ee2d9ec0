package state_test

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/cridock/cridock/internal/beneath"
	"github.com/cridock/cridock/shim/state"
)

const (
	podName = "k8s_POD_web_default_uid_0"
	id      = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef"
)

// files lists the regular files below a directory with their content, and the empty
// directories.
func files(t *testing.T, dir string) map[string]string {
	t.Helper()
	found := map[string]string{}
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		name := strings.TrimPrefix(path, dir+"/")
		if d.IsDir() {
			if entries, err := os.ReadDir(path); err == nil && len(entries) == 0 {
				found[name+"/"] = ""
			}
			return nil
		}
		content, err := os.ReadFile(path)
		found[name] = string(content)
		return err
	})
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		t.Fatal(err)
	}
	return found
}

// age makes everything below a directory as old as an earlier process would have
// left it.
func age(t *testing.T, dir string) {
	t.Helper()
	old := time.Now().Add(-time.Hour)
	err := filepath.WalkDir(dir, func(path string, _ fs.DirEntry, err error) error {
		return errors.Join(err, os.Chtimes(path, old, old))
	})
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		t.Fatal(err)
	}
}

// steps are the steps in the life of a sandbox and its container.
var steps = []struct {
	name string
	do   func(*state.Store) error
}{
	{"create the sandbox's directory", func(s *state.Store) error {
		created, err := s.Sandbox(podName).Create()
		if err == nil && !created {
			err = errors.New("the directory already existed")
		}
		return err
	}},
	{"write resolv.conf", func(s *state.Store) error { return s.Sandbox(podName).Write(state.ResolvConf, []byte("r"), 0o644) }},
	{"begin the log", func(s *state.Store) error { return s.Container(id).Write(state.LogPosition, []byte("p"), 0o600) }},
	{"update the container", func(s *state.Store) error { return s.Container(id).Write(state.Resources, []byte("1"), 0o600) }},
	{"update it again", func(s *state.Store) error { return s.Container(id).Write(state.Resources, []byte("2"), 0o600) }},
	{"update the sandbox", func(s *state.Store) error { return s.Sandbox(podName).Write(state.Resources, []byte("1"), 0o600) }},
	{"begin a checkpoint", func(s *state.Store) error { return s.Container(id).Mkdir(state.Checkpoint) }},
	{"begin another checkpoint", func(s *state.Store) error {
		image := filepath.Join(s.Container(id).Path(state.Checkpoint), "core.img")
		return errors.Join(os.WriteFile(image, nil, 0o600), s.Container(id).Mkdir(state.Checkpoint))
	}},
	{"end the checkpoint", func(s *state.Store) error { return s.Container(id).Remove(state.Checkpoint) }},
	{"remove the container", func(s *state.Store) error { return s.Container(id).RemoveAll() }},
	{"remove the sandbox", func(s *state.Store) error { return s.Sandbox(podName).RemoveAll() }},
}

// TestKilledAtEveryStep: after each step, and with a draft left by a kill in
// the middle of a write, the next process keeps what is alive and removes the
// rest.
func TestKilledAtEveryStep(t *testing.T) {
	for n := range len(steps) + 1 {
		name := "before all"
		if n > 0 {
			name = steps[n-1].name
		}
		for alive, live := range map[string]state.Live{
			"nothing":       {},
			"sandbox":       {Sandboxes: []string{podName}},
			"container":     {Containers: []string{id}},
			"both and more": {Sandboxes: []string{"other", podName}, Containers: []string{id, strings.Repeat("a", 64)}},
		} {
			t.Run(name+"/"+alive, func(t *testing.T) {
				dir := filepath.Join(t.TempDir(), "root")
				killed := state.New(dir)
				for _, step := range steps[:n] {
					if err := step.do(killed); err != nil {
						t.Fatalf("%s: %v", step.name, err)
					}
				}
				for _, d := range []state.Dir{killed.Sandbox(podName), killed.Container(id)} {
					_ = os.WriteFile(d.Path("file.draft.tmp"), []byte("half"), 0o600) // fails without the directory
				}
				age(t, dir)
				want := files(t, dir)
				for path := range want {
					keep := strings.HasPrefix(path, "sandboxes/") && len(live.Sandboxes) > 0 || strings.HasPrefix(path, "containers/") && len(live.Containers) > 0
					if !keep {
						delete(want, path)
					}
				}
				next := state.New(dir)
				if err := next.Sweep(live); err != nil {
					t.Fatal(err)
				}
				got := files(t, dir)
				delete(got, "sandboxes/")
				delete(got, "containers/")
				delete(want, "sandboxes/")
				delete(want, "containers/")
				if diff := cmp.Diff(want, got); diff != "" {
					t.Errorf("files (-want +got):\n%s", diff)
				}
			})
		}
	}
}

// TestSweepSparesTheNew: a sandbox has its directory before Docker knows the
// sandbox.
func TestSweepSparesTheNew(t *testing.T) {
	s := state.New(t.TempDir())
	time.Sleep(20 * time.Millisecond) // file timestamps are coarse
	if _, err := s.Sandbox(podName).Create(); err != nil {
		t.Fatal(err)
	}
	if err := s.Sweep(state.Live{}); err != nil {
		t.Fatal(err)
	}
	if created, err := s.Sandbox(podName).Create(); err != nil || created {
		t.Errorf("created again: %v, %v; want it to have stayed", created, err)
	}
}

func TestContainersWith(t *testing.T) {
	s := state.New(filepath.Join(t.TempDir(), "root"))
	if ids, err := s.ContainersWith(state.Checkpoint); err != nil || len(ids) > 0 {
		t.Errorf("in an empty store: %v, %v", ids, err)
	}
	other := strings.Repeat("b", 64)
	if err := errors.Join(s.Container(id).Mkdir(state.Checkpoint), s.Container(other).Write(state.LogPosition, nil, 0o600)); err != nil {
		t.Fatal(err)
	}
	ids, err := s.ContainersWith(state.Checkpoint)
	if diff := cmp.Diff([]string{id}, ids); diff != "" || err != nil {
		t.Errorf("%v (-want +got):\n%s", err, diff)
	}
}

// TestNames: no object's name leads outside the root.
func TestNames(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "root")
	s := state.New(dir)
	for _, bad := range []string{"..", "../x", "/", "/etc", ".", "a/../../../b"} {
		if err := s.Container(bad).Write(state.LogPosition, nil, 0o600); err == nil {
			t.Errorf("wrote a file of container %q", bad)
		}
		if err := s.Container(bad).RemoveAll(); err == nil {
			t.Errorf("removed container %q", bad)
		}
		if err := s.Sandbox(bad).Write(state.ResolvConf, nil, 0o644); err != nil {
			t.Errorf("sandbox %q: %v", bad, err) // its directory's name is a hash
		}
	}
	outside := t.TempDir()
	if err := os.Remove(filepath.Join(dir, "containers")); err != nil {
		t.Fatal(err) // not empty, or missing
	}
	if err := os.Symlink(outside, filepath.Join(dir, "containers")); err != nil {
		t.Fatal(err)
	}
	if err := s.Container(id).Write(state.LogPosition, nil, 0o600); !beneath.IsRefused(err) {
		t.Errorf("through a link: %v, want it refused", err)
	}
	if entries, err := os.ReadDir(outside); err != nil || len(entries) > 0 {
		t.Errorf("outside: %v, %v", entries, err)
	}
}

// TestRelease keeps a checkpoint in progress, and nothing else.
func TestRelease(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "root")
	d := state.New(dir).Container(id)
	if err := d.Release(); err != nil {
		t.Errorf("without a directory: %v", err)
	}
	image := filepath.Join(d.Path(state.Checkpoint), "core.img")
	if err := errors.Join(d.Write(state.LogPosition, nil, 0o600), d.Write(state.Resources, nil, 0o600), d.Mkdir(state.Checkpoint), os.WriteFile(image, nil, 0o600)); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if err := d.Release(); err != nil {
			t.Fatal(err)
		}
	}
	if diff := cmp.Diff(map[string]string{"containers/" + id + "/checkpoint/core.img": ""}, files(t, dir)); diff != "" {
		t.Errorf("during a checkpoint (-want +got):\n%s", diff)
	}
	if err := errors.Join(d.Remove(state.Checkpoint), d.Release()); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Lstat(filepath.Join(dir, "containers", id)); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("after it: %v, want the directory gone", err)
	}
}

// TestIncompleteList: what was read before an error is not lost.
func TestIncompleteList(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "root")
	s := state.New(dir)
	if err := s.Container(id).Write(state.Resources, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.RemoveAll(filepath.Join(dir, "containers")); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "containers"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if ids, err := s.ContainersWith(state.Resources); err == nil {
		t.Errorf("a file in the directory's place: %v, want an error", ids)
	}
}
