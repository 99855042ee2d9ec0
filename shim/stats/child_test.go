package stats

import (
	"bufio"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/cridock/cridock/internal/needs"
)

// childMode makes the test binary act as a container's process.
const childMode = "STATS_TEST_CHILD"

func TestMain(m *testing.M) {
	mode := os.Getenv(childMode)
	if mode == "" {
		os.Exit(m.Run())
	}
	if err := actAsContainer(mode); err != nil {
		fmt.Fprintln(os.Stderr, "child:", err)
		os.Exit(1)
	}
}

const (
	childCPU     = 1200 * time.Millisecond
	childMemory  = 64 << 20
	childSockets = 3
	childFrames  = 100
	childFrame   = 1000 // bytes with the Ethernet header
)

// actAsContainer does some work after each line it reads, and answers with a
// line.
func actAsContainer(mode string) error {
	in := bufio.NewScanner(os.Stdin)
	var hold []any
	for in.Scan() {
		switch mode {
		case "work":
			// Not the Go heap: the race detector keeps shadow memory for that.
			b, err := unix.Mmap(-1, 0, childMemory, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANON|unix.MAP_POPULATE)
			if err != nil {
				return err
			}
			hold = append(hold, b)
			for range childSockets {
				c, err := net.ListenPacket("udp4", "127.0.0.1:0")
				if err != nil {
					return err
				}
				hold = append(hold, c)
			}
			for used := cpuTime(unix.RUSAGE_SELF); cpuTime(unix.RUSAGE_SELF)-used < childCPU; {
			}
		case "network":
			if err := sendFrames(); err != nil {
				return err
			}
		}
		fmt.Println("done")
	}
	runtime.KeepAlive(hold)
	return nil
}

func cpuTime(who int) time.Duration {
	var ru unix.Rusage
	if err := unix.Getrusage(who, &ru); err != nil {
		panic(err)
	}
	return time.Duration(ru.Utime.Nano() + ru.Stime.Nano())
}

// sendFrames creates a pair of interfaces in this process's own network
// namespace and sends frames from net1 to eth0.
func sendFrames() error {
	for _, args := range []string{
		"link add eth0 type veth peer name net1",
		"link set eth0 addrgenmode none", "link set net1 addrgenmode none",
		"link set eth0 up", "link set net1 up",
	} {
		if out, err := exec.Command("ip", strings.Fields(args)...).CombinedOutput(); err != nil {
			return fmt.Errorf("ip %s: %w: %s", args, err, out)
		}
	}
	link, err := net.InterfaceByName("net1")
	if err != nil {
		return err
	}
	fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	frame := make([]byte, childFrame)
	copy(frame, "\xff\xff\xff\xff\xff\xff")
	copy(frame[6:], link.HardwareAddr)
	frame[12], frame[13] = 0x88, 0xb5 // an EtherType for experiments
	for range childFrames {
		if err := unix.Sendto(fd, frame, 0, &unix.SockaddrLinklayer{Ifindex: link.Index}); err != nil {
			return err
		}
	}
	return nil
}

// child is a process in its own control groups, as a container's is.
type child struct {
	id, parent string // of its groups
	cmd        *exec.Cmd
	in         io.WriteCloser
	out        *bufio.Reader
	groups     []string
}

// startChild runs this binary in groups <own group>/<parent>/<id> of each v1
// hierarchy. The groups are removed when the test ends.
func startChild(t testing.TB, mode string, cloneFlags uintptr) *child {
	t.Helper()
	needs.Root(t, "makes control groups")
	if newHierarchies("/sys/fs/cgroup", "/proc").unified {
		t.Skip("needs cgroup v1: on v2 the test's own group cannot have children with controllers")
	}
	c := &child{id: randomID(t), parent: "stats-test-" + randomID(t)[:16]}
	c.makeGroups(t)
	c.cmd = exec.Command(os.Args[0])
	c.cmd.Env = append(os.Environ(), childMode+"="+mode)
	c.cmd.Stderr = os.Stderr
	c.cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: cloneFlags, Pdeathsig: syscall.SIGKILL}
	var err error
	if c.in, err = c.cmd.StdinPipe(); err != nil {
		t.Fatal(err)
	}
	out, err := c.cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	c.out = bufio.NewReader(out)
	if err := c.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.end(t) })
	for _, g := range c.groups {
		if err := os.WriteFile(g+"/cgroup.procs", []byte(strconv.Itoa(c.cmd.Process.Pid)), 0); err != nil {
			t.Fatal(err)
		}
	}
	return c
}

// randomID returns an ID in the form of Docker's container IDs.
func randomID(t testing.TB) string {
	t.Helper()
	var random [32]byte
	if _, err := rand.Read(random[:]); err != nil {
		t.Fatal(err)
	}
	return hex.EncodeToString(random[:])
}

func (c *child) makeGroups(t testing.TB) {
	t.Helper()
	own, err := os.ReadFile("/proc/self/cgroup")
	if err != nil {
		t.Fatal(err)
	}
	controllers := newHierarchies("/sys/fs/cgroup", "/proc").controllers
	made := map[string]bool{}
	for line := range strings.Lines(string(own)) {
		parts := strings.SplitN(strings.TrimSpace(line), ":", 3)
		for controller := range strings.SplitSeq(parts[1], ",") {
			switch controller {
			case "cpu", "cpuacct", "memory", "pids", "blkio", "hugetlb":
			default:
				continue
			}
			parent := filepath.Join(controllers[controller], parts[2], c.parent)
			if made[parent] {
				continue
			}
			made[parent] = true
			// Another child with the same parent may have created it, and then removes it.
			if os.Mkdir(parent, 0o755) == nil {
				t.Cleanup(func() { removeGroup(t, parent) })
			}
			t.Cleanup(func() { removeGroup(t, filepath.Join(parent, c.id)) })
			if err := os.Mkdir(filepath.Join(parent, c.id), 0o755); err != nil {
				t.Fatal(err)
			}
			c.groups = append(c.groups, filepath.Join(parent, c.id))
		}
	}
}

// removeGroup removes a group that a test has created. The kernel takes a
// moment to release a group after its last process was reaped.
func removeGroup(t testing.TB, dir string) {
	for end := time.Now().Add(time.Minute); ; time.Sleep(time.Millisecond) {
		err := os.Remove(dir)
		if err == nil || errors.Is(err, os.ErrNotExist) {
			return
		}
		if time.Now().After(end) {
			t.Errorf("control group left behind: %v", err)
			return
		}
	}
}

// set writes a file of the child's groups.
func (c *child) set(t testing.TB, file, value string) {
	t.Helper()
	for _, g := range c.groups {
		if err := os.WriteFile(filepath.Join(g, file), []byte(value), 0); err == nil {
			return
		}
	}
	t.Fatalf("no group takes %s=%s", file, value)
}

// work lets the child work once.
func (c *child) work(t testing.TB) {
	t.Helper()
	if _, err := io.WriteString(c.in, "work\n"); err != nil {
		t.Fatal(err)
	}
	if line, err := c.out.ReadString('\n'); err != nil || line != "done\n" {
		t.Fatalf("child said %q, %v", line, err)
	}
}

// end stops the child; a second call does nothing.
func (c *child) end(t testing.TB) {
	if c.cmd.ProcessState != nil {
		return
	}
	_ = c.in.Close()
	if err := c.cmd.Wait(); err != nil {
		t.Errorf("child: %v", err)
	}
}

func (c *child) container() Container {
	return Container{ID: c.id, Pid: c.cmd.Process.Pid}
}
