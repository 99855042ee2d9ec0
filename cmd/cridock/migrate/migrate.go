// Package migrate moves a node from cri-dockerd, or from the kubelet's dockershim, to
// cridock, and back, while its pods keep running. It does what docs/migrating.md
// describes, as a list of steps that can each be undone.
//
// A journal on disk has the list and how far it is. If a step fails or the command is
// interrupted, all steps are undone; if the command is killed, its next call goes on in
// either direction. No step stops a pod.
package migrate

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/docker/docker/api/types/container"
	"github.com/docker/docker/api/types/filters"
	"golang.org/x/sys/unix"

	"github.com/cridock/cridock/internal/nodeconf"
)

// What a node is migrated from.
const (
	FromCRIDockerd = "cri-dockerd"
	FromDockershim = "dockershim"
)

// Settings are those of the node's cridock, as cridock.service starts it.
type Settings struct {
	Endpoint       string // container-runtime-endpoint
	DockerEndpoint string
	RootDir        string
	RuntimeDir     string
	PodLogsDir     string
	ConfigDir      string // config-dir; empty: none
	NetworkPlugin  string // cni or docker
	CNIConfDir     string
	CNIBinDirs     []string
	CNICacheDir    string
	LinkedLogs     bool // container-log-mode is symlink
	// PrepareRoot makes the root directory, and refuses one that others can change.
	PrepareRoot func() error
}

// Engine is what the migration asks Docker.
type Engine interface {
	ContainerList(context.Context, filters.Args) ([]container.Summary, error)
	ContainerInspect(context.Context, string) (container.InspectResponse, error)
	Close() error
}

// Host is the node, and how this process acts on it.
type Host struct {
	// Root is the node's root directory. All paths are below it.
	Root nodeconf.Root
	// UID is the process's.
	UID int
	// Load returns the settings of a cridock with these arguments.
	Load func(args []string) (Settings, error)
	// Docker connects to an engine.
	Docker func(endpoint string) (Engine, error)
	// Run runs a program and returns its standard output.
	Run func(ctx context.Context, name string, args ...string) (string, error)
	// Hostname returns the name of the node that the kubelet uses by default.
	Hostname func() (string, error)
	// Unmount unmounts a pin of a network namespace.
	Unmount func(path string) error

	In  io.Reader
	Out io.Writer

	// Patience is how long the migration waits for an adapter to list all pods, or for
	// cridock to link all logs.
	Patience time.Duration
	// Settle is how long a kubelet must run to count as started.
	Settle time.Duration
	// Poll is the time between two looks.
	Poll time.Duration

	// journaled is called before and after each write of the journal; tests set it.
	journaled func(written bool)
}

// NewHost returns this machine. The caller sets Load and Docker.
func NewHost(in io.Reader, out io.Writer) *Host {
	return &Host{
		Root: "/", UID: os.Geteuid(), Run: runProgram, Hostname: os.Hostname, Unmount: unmountPin, In: in, Out: out,
		Patience: 2 * time.Minute, Settle: 10 * time.Second, Poll: 500 * time.Millisecond,
	}
}

// Request is what the command was asked for: exactly one of From, Back and Resume.
type Request struct {
	From         string // FromCRIDockerd or FromDockershim
	Back, Resume bool
	DryRun       bool // change nothing
	Yes          bool // do not ask
}

func (r Request) validate() error {
	given := 0
	for _, is := range []bool{r.From != "", r.Back, r.Resume} {
		if is {
			given++
		}
	}
	switch {
	case given != 1:
		return errors.New("want one of --from, --back and --resume")
	case r.From != "" && r.From != FromCRIDockerd && r.From != FromDockershim:
		return fmt.Errorf("--from %s: want %s or %s", r.From, FromCRIDockerd, FromDockershim)
	}
	return nil
}

// Run migrates the node. If it fails and does not say otherwise, the node is as before.
func Run(ctx context.Context, h *Host, r Request) error {
	if err := r.validate(); err != nil {
		return err
	}
	if h.UID != 0 {
		return errors.New("migrate needs root")
	}
	if !h.Root.Exists("/run/systemd/system") {
		return errors.New("this node does not run systemd: migrate cannot stop, start or enable services, nor find the kubelet's flags, and has changed nothing; docs/migrating.md has the steps to do by hand")
	}
	m, err := newMigration(ctx, h)
	if err != nil {
		return err
	}
	defer func() { _ = m.docker.Close() }()
	if !r.DryRun {
		unlock, err := m.lock()
		if err != nil {
			return err
		}
		defer unlock()
	}
	j, err := m.readJournal()
	if err != nil {
		return err
	}
	m.journal = j
	defer m.printNotes()
	switch {
	case r.Back:
		return m.back(ctx, r)
	case r.Resume:
		return m.resume(ctx, r)
	}
	return m.forward(ctx, r)
}

// migration is one call of the command.
type migration struct {
	*Host
	settings Settings
	docker   Engine
	journal  *journal // nil: no migration was begun
	// lenient: what fails without leaving the node between two adapters is only noted.
	lenient bool
	// replay: the journal is an earlier call's. The machine may have restarted since, so
	// all steps are done again, or undone.
	replay bool
	notes  []string
}

// newMigration reads the settings of cridock.service.
func newMigration(ctx context.Context, h *Host) (*migration, error) {
	m := &migration{Host: h}
	service, err := m.unit(ctx, cridockService)
	if err != nil {
		return nil, err
	}
	unit, err := h.Root.ReadUnit(cridockService)
	if err != nil {
		return nil, err
	}
	if !service.Loaded || unit == nil {
		return nil, errors.New("systemd has no usable cridock.service: install cridock first, as docs/migrating.md describes it")
	}
	words, err := h.Root.ServiceCommand(unit)
	if err != nil {
		return nil, err
	}
	if len(words) == 0 {
		return nil, errors.New("cridock.service has no ExecStart")
	}
	if m.settings, err = h.Load(words[1:]); err != nil {
		return nil, fmt.Errorf("settings of cridock.service: %w", err)
	}
	if m.settings.Endpoint == "fd://" {
		if m.settings.Endpoint, err = m.socketOf(cridockSocket); err != nil {
			return nil, err
		}
	}
	if !safe.MatchString(m.settings.Endpoint) {
		return nil, fmt.Errorf("container-runtime-endpoint %s: migrate cannot write it into the kubelet's flags", m.settings.Endpoint)
	}
	m.docker, err = h.Docker(m.settings.DockerEndpoint)
	return m, err
}

func (m *migration) printf(format string, args ...any) {
	// The steps go on if nobody reads what they print.
	_, _ = fmt.Fprintf(m.Out, format+"\n", args...)
}

// note keeps what the user has to know at the end.
func (m *migration) note(format string, args ...any) {
	m.notes = append(m.notes, fmt.Sprintf(format, args...))
}

func (m *migration) printNotes() {
	for _, n := range m.notes {
		m.printf("note: %s", n)
	}
}

// confirm asks whether to go on.
func (m *migration) confirm(r Request) error {
	if r.Yes {
		return nil
	}
	_, _ = fmt.Fprint(m.Out, "Continue? [y/N] ")
	var answer string
	_, _ = fmt.Fscanln(m.In, &answer) // no answer is no
	if a := strings.ToLower(answer); a != "y" && a != "yes" {
		return errors.New("not confirmed; nothing was changed")
	}
	return nil
}

// programPatience bounds a program. A unit may take 90 seconds to stop, and cridock
// starts when Docker does.
const programPatience = 5 * time.Minute

func runProgram(ctx context.Context, name string, args ...string) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, programPatience)
	defer cancel()
	var stdout, stderr bytes.Buffer
	cmd := exec.CommandContext(ctx, name, args...) //nolint:gosec // systemctl and kubectl; the arguments are units and root's files
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	cmd.WaitDelay = time.Second
	// A terminal's signals are for this process, which may be undoing.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := cmd.Run(); err != nil {
		return "", fmt.Errorf("%s %s: %w: %s", name, strings.Join(args, " "), err, strings.TrimSpace(stderr.String()))
	}
	return stdout.String(), nil
}

func unmountPin(path string) error {
	err := unix.Unmount(path, unix.UMOUNT_NOFOLLOW)
	if errors.Is(err, unix.EINVAL) { // it is not mounted
		return nil
	}
	return err
}

// dir is where the journal and the backups are, as the node names it.
func (m *migration) dir() string { return filepath.Join(m.settings.RootDir, "migration") }
