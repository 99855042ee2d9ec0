package register

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/containerd/errdefs"
	"github.com/docker/docker/api/types/events"
	"github.com/docker/docker/api/types/filters"

	"github.com/cridock/cridock/internal/seam"
	"github.com/cridock/cridock/internal/trust"
	"github.com/cridock/cridock/shim/engine"
)

// reloadTimeout bounds the wait for dockerd to read its configuration.
const reloadTimeout = 30 * time.Second

// Engine is what the package uses of Docker.
type Engine interface {
	engine.Events
	Refresh(ctx context.Context) (*engine.Capabilities, error)
}

// Registration says what to register, and where.
type Registration struct {
	Engine Engine
	// ConfigFile is dockerd's configuration file, which need not exist.
	ConfigFile string
	// PIDFile has dockerd's PID.
	PIDFile string
	// Dockerd is the program that validates the configuration; empty for none.
	Dockerd string
	// Binary is cridock-runtime. Only root may be able to change it.
	Binary string
	// RuntimeDir is cridock's runtime directory.
	RuntimeDir string
}

// want returns the entry in the configuration file.
func (r Registration) want() *entry {
	e := &entry{Path: r.Binary}
	if dir := filepath.Clean(r.RuntimeDir); seam.Dir(dir) != seam.DefaultDir {
		e.Args = []string{"--cridock-dir=" + dir}
	}
	return e
}

// Install registers cridock-runtime, or updates its registration. It is idempotent.
// If dockerd does not accept the change, the configuration is as before.
func (r Registration) Install(ctx context.Context) error {
	if err := checkBinary(r.Binary); err != nil {
		return err
	}
	if strings.ContainsAny(r.RuntimeDir, " \t\n'\"\\$`") {
		return fmt.Errorf("runtime directory %q: %w: Docker passes it through a shell", r.RuntimeDir, errdefs.ErrInvalidArgument)
	}
	return r.apply(ctx, r.want())
}

// Remove undoes Install. It is idempotent. While there are containers that
// cridock-runtime changes it is errdefs.ErrFailedPrecondition, since Docker needs the
// runtime to stop and remove them.
func (r Registration) Remove(ctx context.Context) error {
	records, err := os.ReadDir(filepath.Join(r.RuntimeDir, seam.Records))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if len(records) > 0 {
		return fmt.Errorf("%d containers run with cridock-runtime: %w: remove their pods first (records in %s)", len(records), errdefs.ErrFailedPrecondition, filepath.Join(r.RuntimeDir, seam.Records))
	}
	return r.apply(ctx, nil)
}

// apply makes file and daemon have this entry; nil for none.
func (r Registration) apply(ctx context.Context, e *entry) error {
	f, err := readFile(r.ConfigFile)
	if err != nil {
		return err
	}
	have, err := f.entry()
	if err != nil {
		return err
	}
	if sameEntry(have, e) {
		if active, err := r.active(ctx, e); err != nil || active {
			return err
		}
		if err := r.checkFlags(); err != nil {
			return err
		}
		return r.reload(ctx, e)
	}
	content, err := f.with(e)
	if err != nil {
		return err
	}
	if err := errors.Join(r.checkFlags(), r.validate(ctx, f, content)); err != nil {
		return err
	}
	if err := f.replace(content); err != nil {
		return err
	}
	if err := r.reload(ctx, e); err != nil {
		undo := f.restore()
		if undo == nil {
			undo = r.signal()
		}
		return errors.Join(fmt.Errorf("%s is as before: %w", f.path, err), undo)
	}
	return nil
}

// validate has dockerd check the new content, if it can: from Docker 23.0.
func (r Registration) validate(ctx context.Context, f *file, content []byte) error {
	if r.Dockerd == "" {
		return nil
	}
	help, err := exec.CommandContext(ctx, r.Dockerd, "--help").CombinedOutput() //nolint:gosec // a flag names it
	if errors.Is(err, exec.ErrNotFound) || errors.Is(err, fs.ErrNotExist) || err == nil && !strings.Contains(string(help), "--validate") {
		return nil
	}
	if err != nil {
		return fmt.Errorf("%s --help: %w", r.Dockerd, err)
	}
	draft, err := os.CreateTemp("", "daemon.json.*")
	if err != nil {
		return err
	}
	defer func() { _ = os.Remove(draft.Name()) }()
	_, err = draft.Write(content)
	if err := errors.Join(err, draft.Close()); err != nil {
		return err
	}
	out, err := exec.CommandContext(ctx, r.Dockerd, "--validate", "--config-file", draft.Name()).CombinedOutput() //nolint:gosec // likewise
	if err != nil {
		return fmt.Errorf("dockerd refuses the new %s: %w: %s", f.path, errdefs.ErrFailedPrecondition, strings.TrimSpace(string(out)))
	}
	return nil
}

// reload has dockerd read its configuration, and checks the result.
func (r Registration) reload(ctx context.Context, e *entry) error {
	ctx, cancel := context.WithTimeout(ctx, reloadTimeout)
	defer cancel()
	// Subscribed first, so that the event cannot be missed.
	messages, failed := r.Engine.Events(ctx, filters.NewArgs(filters.Arg("type", string(events.DaemonEventType)), filters.Arg("event", string(events.ActionReload))))
	if err := r.signal(); err != nil {
		return err
	}
	select {
	case <-messages:
	case err := <-failed:
		return fmt.Errorf("dockerd did not read its configuration, its log says why: %w", err)
	case <-ctx.Done():
		return fmt.Errorf("dockerd did not read its configuration, its log says why: %w", ctx.Err())
	}
	active, err := r.active(ctx, e)
	if err == nil && !active {
		err = fmt.Errorf("dockerd has read a configuration, but not this one: %w: is %s the file that it uses?", errdefs.ErrFailedPrecondition, r.ConfigFile)
	}
	return err
}

// active reports whether the daemon has this entry.
func (r Registration) active(ctx context.Context, e *entry) (bool, error) {
	caps, err := r.Engine.Refresh(ctx)
	if err != nil {
		return false, err
	}
	have, ok := caps.Runtimes[seam.RuntimeName]
	if !ok || e == nil {
		return !ok && e == nil, nil
	}
	return sameEntry(&entry{Path: have.Path, Args: have.Args}, e), nil
}

// checkFlags refuses a dockerd that has runtimes on its command line. Those in its
// configuration replace them when it reads that again; Docker 20.10 then ends if its
// default runtime was one of them.
func (r Registration) checkFlags() error {
	pid, err := r.pid()
	if err != nil {
		return err
	}
	line, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid))
	if err != nil {
		return err
	}
	for arg := range strings.SplitSeq(string(line), "\x00") {
		if name, _, _ := strings.Cut(arg, "="); name == "--add-runtime" {
			return fmt.Errorf("dockerd has --add-runtime on its command line, and would lose that runtime: %w: move it to runtimes in %s, and restart dockerd", errdefs.ErrFailedPrecondition, r.ConfigFile)
		}
	}
	return nil
}

// signal sends SIGHUP to dockerd.
func (r Registration) signal() error {
	pid, err := r.pid()
	if err != nil {
		return err
	}
	return syscall.Kill(pid, syscall.SIGHUP)
}

// pid returns dockerd's process.
func (r Registration) pid() (int, error) {
	text, err := os.ReadFile(r.PIDFile)
	if err != nil {
		return 0, fmt.Errorf("dockerd's PID file: %w", err)
	}
	pid, err := strconv.Atoi(strings.TrimSpace(string(text)))
	if err != nil || pid <= 1 {
		return 0, fmt.Errorf("dockerd's PID file %s: %w: %q", r.PIDFile, errdefs.ErrInvalidArgument, text)
	}
	comm, err := os.ReadFile(fmt.Sprintf("/proc/%d/comm", pid))
	if err != nil || strings.TrimSpace(string(comm)) != "dockerd" {
		return 0, fmt.Errorf("process %d of %s is no dockerd: %w", pid, r.PIDFile, errdefs.ErrFailedPrecondition)
	}
	return pid, nil
}

// Status describes the registration.
type Status struct {
	// InFile is the path in the configuration file, Active the one that the daemon
	// uses; both are empty for none.
	InFile, Active string
	// Wrong says what is wrong with the registration; empty for nothing.
	Wrong string
}

// Status reads the configuration file and asks the daemon.
func (r Registration) Status(ctx context.Context) (Status, error) {
	f, err := readFile(r.ConfigFile)
	if err != nil {
		return Status{}, err
	}
	e, err := f.entry()
	if err != nil {
		return Status{}, err
	}
	caps, err := r.Engine.Refresh(ctx)
	if err != nil {
		return Status{}, err
	}
	active := caps.Runtimes[seam.RuntimeName]
	s := Status{Active: active.Path}
	if e != nil {
		s.InFile = e.Path
	}
	switch {
	case active.Path == "" && e == nil:
		s.Wrong = "not registered: run cridock runtime install"
	case active.Path == "":
		s.Wrong = "dockerd has not read " + f.path
	case !sameEntry(&entry{Path: active.Path, Args: active.Args}, &entry{Path: active.Path, Args: r.want().Args}):
		s.Wrong = fmt.Sprintf("registered with the arguments %q, want %q for runtime-directory %s", active.Args, r.want().Args, r.RuntimeDir)
	default:
		if err := checkBinary(active.Path); err != nil {
			s.Wrong = err.Error()
		}
	}
	return s, nil
}

// checkBinary makes sure that a program exists which only root can replace: Docker
// executes it as root.
func checkBinary(path string) error {
	if !filepath.IsAbs(path) {
		return fmt.Errorf("%q: %w: not an absolute path", path, errdefs.ErrInvalidArgument)
	}
	info, err := os.Stat(path)
	if err != nil {
		return err
	}
	if !info.Mode().IsRegular() || info.Mode().Perm()&0o111 == 0 {
		return fmt.Errorf("%s: %w: not a program", path, errdefs.ErrInvalidArgument)
	}
	if err := trust.Check(path, 0); err != nil {
		return fmt.Errorf("%s: %w: users other than root can change it: %w", path, errdefs.ErrPermissionDenied, err)
	}
	return nil
}
