package e2e

import (
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// metricsFlags are the flags of cridock that a census needs. The port is in the
// node's own network.
var metricsFlags = []string{"--metrics-bind-address=9911", "--profiling"}

// census records everything that containers use on a node and in cridock.
// Whatever happens between two of them, the second must not contain more.
type census struct {
	Containers, Addresses, Pins, Mounts, Rules, Shims []string
	// Goroutines by the function they run, Files by kind, and Children of cridock's
	// process. Idle connections to Docker are not counted.
	Goroutines, Files, Children map[string]int
}

func (c *cridock) census(t testing.TB) (s census) {
	t.Helper()
	var errs [5]error
	s.Containers, errs[0] = c.docker.withLabel("io.kubernetes.pod.uid")
	s.Addresses, errs[1] = leases(c.ipamDir())
	s.Pins, errs[2] = filesBelow(c.netns())
	s.Mounts, errs[3] = c.mounts()
	s.Rules, errs[4] = c.allRules()
	for _, err := range errs {
		if err != nil {
			t.Fatal(err)
		}
	}
	// This file system stays for later image volumes.
	s.Mounts = slices.DeleteFunc(s.Mounts, func(m string) bool { return m == c.imageVolumes() })
	s.Shims = c.shims(t)
	var idle int
	s.Goroutines, idle = c.goroutines(t)
	pid, err := c.process()
	if err != nil {
		t.Fatal(err)
	}
	s.Files = openFiles(pid)
	s.Files["socket"] -= idle
	s.Children = map[string]int{"": len(children(pid))}
	return s
}

// allRules returns all iptables rules, of both IP versions.
func (c *cridock) allRules() (rules []string, err error) {
	for _, save := range []string{"iptables-save", "ip6tables-save"} {
		out, err := c.command(save).Output()
		if err != nil {
			return nil, fmt.Errorf("%s: %w", save, err)
		}
		for line := range strings.Lines(string(out)) {
			if strings.HasPrefix(line, "-A") { // chains and comments contain counters and times
				rules = append(rules, save+" "+strings.TrimSpace(line))
			}
		}
	}
	return rules, nil
}

// goroutines returns cridock's goroutines, and how many idle connections it
// keeps.
func (c *cridock) goroutines(t testing.TB) (running map[string]int, idle int) {
	t.Helper()
	resp, err := c.http().Get("http://127.0.0.1:9911/debug/pprof/goroutine?debug=1")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = resp.Body.Close() }()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	running = map[string]int{}
	for stack := range strings.SplitSeq(string(b), "\n\n") {
		count, entry := parseStack(stack)
		switch {
		case count == 0:
		case entry == "net/http.(*persistConn).readLoop" && strings.Contains(stack, "bufio.(*Reader).Peek"):
			idle += count
		case entry != "net/http.(*persistConn).writeLoop": // one for each connection
			running[entry] += count
		}
	}
	if len(running) == 0 {
		t.Fatalf("no goroutines in %q", b)
	}
	return running, idle
}

// parseStack parses one stack of a profile: how many goroutines have it, and
// the function that they run.
func parseStack(stack string) (count int, entry string) {
	for line := range strings.Lines(stack) {
		f := strings.Fields(line)
		switch {
		case len(f) > 1 && f[1] == "@":
			count, _ = strconv.Atoi(f[0])
		case len(f) > 2 && f[0] == "#":
			entry, _, _ = strings.Cut(f[2], "+0x")
		}
	}
	return count, entry
}

// openFiles counts a process's open files by kind. Directories are left out:
// cridock holds some open during a slow disk usage measurement.
func openFiles(pid int) map[string]int {
	open := map[string]int{}
	links, _ := filepath.Glob(fmt.Sprintf("/proc/%d/fd/*", pid))
	for _, link := range links {
		info, err := os.Stat(link)
		if err == nil && info.IsDir() {
			continue
		}
		target, err := os.Readlink(link)
		if err != nil {
			continue // closed in the meantime
		}
		kind, _, numbered := strings.Cut(target, ":[")
		if !numbered {
			kind = target
		}
		open[kind]++
	}
	return open
}

// children returns the PIDs of a process's children.
func children(pid int) (pids []string) {
	tasks, _ := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/children", pid))
	for _, task := range tasks {
		b, _ := os.ReadFile(task) // the thread may have exited
		pids = append(pids, strings.Fields(string(b))...)
	}
	return pids
}

// grown returns what the second of two censuses has more.
func (s census) grown(now census) (more []string) {
	for kind, lists := range map[string][2][]string{
		"container": {s.Containers, now.Containers}, "address": {s.Addresses, now.Addresses}, "network namespace pin": {s.Pins, now.Pins},
		"mount": {s.Mounts, now.Mounts}, "iptables rule": {s.Rules, now.Rules}, "shim": {s.Shims, now.Shims},
	} {
		for _, item := range lists[1] {
			if !slices.Contains(lists[0], item) {
				more = append(more, kind+" "+item)
			}
		}
	}
	for kind, counts := range map[string][2]map[string]int{
		"goroutines": {s.Goroutines, now.Goroutines}, "open files": {s.Files, now.Files}, "children": {s.Children, now.Children},
	} {
		for item, n := range counts[1] {
			if before := counts[0][item]; n > before {
				more = append(more, fmt.Sprintf("%s %s: %d, not %d", kind, item, n, before))
			}
		}
	}
	return more
}

// checkCensus waits until the census shows nothing that was not there before.
func (c *cridock) checkCensus(t testing.TB, before census) {
	t.Helper()
	var more []string
	for end := time.Now().Add(time.Minute); time.Now().Before(end); time.Sleep(200 * time.Millisecond) {
		if more = before.grown(c.census(t)); len(more) == 0 {
			return
		}
	}
	t.Errorf("left behind on the node:\n%s", strings.Join(more, "\n"))
}

// checkNothingLeft is checkCensus for a cridock that has no pods any more.
func (c *cridock) checkNothingLeft(t testing.TB, before census) {
	t.Helper()
	c.checkCensus(t, before)
	if err := c.leftovers(); err != nil {
		t.Error(err)
	}
}

// warmUp makes cridock create everything that is created only once, such as
// portmap's chains, and takes a census when nothing changes any more.
func (c *cridock) warmUp(t *testing.T) census {
	t.Helper()
	p := c.runPod(t, hostPort(18080))
	p.start("main", "echo up; sleep 1000").sh("true")
	p.remove()
	var last, now census
	eventually(t, "nothing changes any more", time.Minute, func() bool {
		last, now = now, c.census(t)
		time.Sleep(200 * time.Millisecond)
		return cmp.Equal(last, now)
	})
	return now
}
