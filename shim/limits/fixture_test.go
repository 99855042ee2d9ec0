package limits

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/containerd/errdefs"
	"github.com/docker/docker/api/types/container"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/cridock/cridock/translate"
)

type linuxResources = runtimeapi.LinuxContainerResources

const (
	running = runtimeapi.ContainerState_CONTAINER_RUNNING
	created = runtimeapi.ContainerState_CONTAINER_CREATED
	exited  = runtimeapi.ContainerState_CONTAINER_EXITED
)

// fixture is a Keeper on a node of plain files. Its fields are the Keeper's
// dependencies.
type fixture struct {
	*Keeper
	t      *testing.T
	dir    string
	host   translate.Host
	engine fakeEngine
	index  fakeIndex
	store  *fakeStore
	// lock, if not nil, runs when a pod's lock is taken.
	lock func(c *translate.Container) error
	gone *translate.Container // the container of a test that replaces it in the index
	held int                  // number of pods' locks that are held
}

func newFixture(t *testing.T) *fixture {
	f := &fixture{
		t: t, dir: t.TempDir(), store: newFakeStore(), index: fakeIndex{byID: map[string]*translate.Container{}},
		host: translate.Host{CgroupV2: true, CgroupDriver: "systemd", MinOOMScoreAdj: -500},
	}
	f.Keeper = f.newKeeper()
	return f
}

// newKeeper returns the Keeper of another cridock process.
func (f *fixture) newKeeper() *Keeper {
	return New(Options{
		Engine: &f.engine, Index: &f.index, Store: f.store, Host: func() translate.Host { return f.host },
		Lock: func(_ context.Context, c *translate.Container) (func(), error) {
			if f.lock != nil {
				if err := f.lock(c); err != nil {
					return nil, err
				}
			}
			f.held++
			return func() { f.held-- }, nil
		},
		CgroupRoot: filepath.Join(f.dir, "cgroup"), ProcRoot: filepath.Join(f.dir, "proc"), Interval: 1,
	})
}

// add adds a container whose cgroup has these files, of processes PID and PID+1.
func (f *fixture) add(id string, state runtimeapi.ContainerState, r *linuxResources, files map[string]string) *translate.Container {
	f.t.Helper()
	pid := 100 + 10*len(f.index.byID)
	c := &translate.Container{
		ID: id, State: state, Pid: pid, Metadata: &runtimeapi.ContainerMetadata{Name: id}, Resources: r,
		Config: &runtimeapi.ContainerConfig{Linux: &runtimeapi.LinuxContainerConfig{Resources: r}},
	}
	f.index.byID[id] = c
	f.put(fmt.Sprintf("proc/%d/cgroup", pid), "0::/pods/"+id+"\n")
	f.put("cgroup/pods/"+id+"/cgroup.procs", fmt.Sprintf("%d\n%d\n", pid, pid+1))
	for _, pid := range []int{pid, pid + 1} {
		f.put(fmt.Sprintf("proc/%d/oom_score_adj", pid), fmt.Sprintln(r.GetOomScoreAdj()))
	}
	for file, value := range files {
		f.write(c, file, value)
	}
	return c
}

func (f *fixture) put(name, content string) {
	f.t.Helper()
	path := filepath.Join(f.dir, name)
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		f.t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
		f.t.Fatal(err)
	}
}

func (f *fixture) must(err error) {
	f.t.Helper()
	if err != nil {
		f.t.Fatal(err)
	}
}

// write sets a file of a container's cgroup, as the kernel shows it.
func (f *fixture) write(c *translate.Container, file, value string) {
	f.t.Helper()
	f.put("cgroup/pods/"+c.ID+"/"+file, value+"\n")
}

// remove removes a file below the fixture's directory.
func (f *fixture) remove(name string) {
	f.t.Helper()
	f.must(os.Remove(filepath.Join(f.dir, name)))
}

// link makes a symbolic link; both names are below the fixture's directory.
func (f *fixture) link(to, name string) {
	f.t.Helper()
	f.must(os.Symlink(filepath.Join(f.dir, to), filepath.Join(f.dir, name)))
}

// check compares files of a container's cgroup. Only their beginnings count: writes
// do not shorten them, as the kernel's files have no length.
func (f *fixture) check(c *translate.Container, want map[string]string) {
	f.t.Helper()
	for file, value := range want {
		f.checkFile("cgroup/pods/"+c.ID+"/"+file, value)
	}
}

// checkOOM compares the oom_score_adj of both processes of a container.
func (f *fixture) checkOOM(c *translate.Container, want string) {
	f.t.Helper()
	f.checkFile(fmt.Sprintf("proc/%d/oom_score_adj", c.Pid), want)
	f.checkFile(fmt.Sprintf("proc/%d/oom_score_adj", c.Pid+1), want)
}

func (f *fixture) checkFile(name, want string) {
	f.t.Helper()
	b, err := os.ReadFile(filepath.Join(f.dir, name))
	if err != nil || !strings.HasPrefix(string(b), want) {
		f.t.Errorf("%s is %q, %v; want %q", name, b, err, want)
	}
}

type fakeEngine struct {
	updates []container.Resources
	// errs are the results of the next calls; later calls succeed.
	errs []error
	// updated, if not nil, runs in each call.
	updated func()
}

func (e *fakeEngine) ContainerUpdate(_ context.Context, _ string, u container.UpdateConfig) error {
	e.updates = append(e.updates, u.Resources)
	if e.updated != nil {
		e.updated()
	}
	if len(e.errs) == 0 {
		return nil
	}
	err := e.errs[0]
	e.errs = e.errs[1:]
	return err
}

type fakeIndex struct {
	byID   map[string]*translate.Container
	health error
	err    error // of all reads
	synced []string
}

func (i *fakeIndex) Health() error { return i.health }

func (i *fakeIndex) Containers(context.Context) ([]*translate.Container, error) {
	return slices.SortedFunc(maps.Values(i.byID), func(a, b *translate.Container) int { return strings.Compare(a.ID, b.ID) }), i.err
}

func (i *fakeIndex) Container(_ context.Context, id string) (*translate.Container, error) {
	c, ok := i.byID[id]
	if !ok {
		return nil, fmt.Errorf("container %s: %w", id, errdefs.ErrNotFound)
	}
	return c, i.err
}

func (i *fakeIndex) Sync(_ context.Context, id string) error {
	i.synced = append(i.synced, id)
	return nil
}

// fakeStore is a [Store] and a [PodStore].
type fakeStore struct {
	mu   sync.Mutex
	docs map[string][]byte
	// list, write and remove are errors: of IDs, Write and Remove.
	list, write, remove error
}

func newFakeStore() *fakeStore { return &fakeStore{docs: map[string][]byte{}} }

func (s *fakeStore) IDs() ([]string, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Sorted(maps.Keys(s.docs)), s.list
}

// Read cannot read an empty document.
func (s *fakeStore) Read(id string) ([]byte, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	doc, ok := s.docs[id]
	switch {
	case !ok:
		return nil, fmt.Errorf("document of %s: %w", id, fs.ErrNotExist)
	case len(doc) == 0:
		return nil, errors.New("unreadable")
	}
	return doc, nil
}

func (s *fakeStore) Write(id string, doc []byte) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.write == nil {
		s.docs[id] = doc
	}
	return s.write
}

func (s *fakeStore) Remove(id string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.remove == nil {
		delete(s.docs, id)
	}
	return s.remove
}
