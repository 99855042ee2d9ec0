package e2e

import (
	"bufio"
	"fmt"
	"maps"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"
)

// observed are the flags of a cridock whose footprint is taken.
var observed = []string{"--metrics-bind-address=9911", "--profiling"}

// footprint counts what could leak that leftovers does not look for: the node's
// mounts, iptables rules and shims, cridock's goroutines, files, sockets and
// children. Connections that it keeps for its next calls to Docker are left out:
// they come and go.
func (c *cridock) footprint(t testing.TB) map[string]int {
	t.Helper()
	mounts, err := c.mounts()
	if err != nil {
		t.Fatal(err)
	}
	rules := 0
	for _, save := range []string{"iptables-save", "ip6tables-save"} {
		for line := range strings.Lines(c.run(t, save)) {
			if strings.HasPrefix(line, "-A") || strings.HasPrefix(line, ":") {
				rules++
			}
		}
	}
	pid, err := c.process()
	if err != nil {
		t.Fatal(err)
	}
	goroutines, idle := c.goroutines(t)
	files, sockets := 0, 0
	for _, fd := range descriptors(pid) {
		if strings.HasPrefix(fd, "socket:") {
			sockets++
		} else {
			files++
		}
	}
	return map[string]int{
		"mounts": len(mounts), "iptables rules": rules, "shims": len(c.shims(t)),
		"goroutines": goroutines, "files": files, "sockets": sockets - idle, "children": len(children(pid)),
	}
}

// checkFootprint waits until everything is as it was.
func (c *cridock) checkFootprint(t testing.TB, before map[string]int) {
	t.Helper()
	var after map[string]int
	for end := time.Now().Add(time.Minute); time.Now().Before(end); time.Sleep(100 * time.Millisecond) {
		if after = c.footprint(t); maps.Equal(before, after) && c.leftovers() == nil {
			return
		}
	}
	t.Errorf("footprint was %v and is %v", before, after)
	if err := c.leftovers(); err != nil {
		t.Error(err)
	}
	if pid, err := c.process(); err == nil {
		t.Logf("descriptors: %q", descriptors(pid))
	}
	t.Logf("goroutines:\n%s", c.profile(t))
}

// profile is Go's profile of goroutines, those with one stack together.
func (c *cridock) profile(t testing.TB) string {
	t.Helper()
	resp, err := c.http().Get("http://127.0.0.1:9911/debug/pprof/goroutine?debug=1")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = resp.Body.Close() }()
	var b strings.Builder
	if _, err := bufio.NewReader(resp.Body).WriteTo(&b); err != nil || resp.StatusCode != http.StatusOK {
		t.Fatalf("profile of goroutines: %s, %v", resp.Status, err)
	}
	return b.String()
}

// goroutines counts cridock's goroutines but those that mind the connections it
// keeps, and these connections.
func (c *cridock) goroutines(t testing.TB) (count, idle int) {
	t.Helper()
	for stack := range strings.SplitSeq(c.profile(t), "\n\n") {
		head, _, ok := strings.Cut(stack[strings.LastIndex(stack[:strings.Index(stack+" @", " @")], "\n")+1:], " @")
		n, err := strconv.Atoi(head)
		if !ok || err != nil {
			continue
		}
		switch {
		case strings.Contains(stack, "net/http.(*persistConn).readLoop+"):
			idle += n
		case !strings.Contains(stack, "net/http.(*persistConn).writeLoop+"):
			count += n
		}
	}
	return count, idle
}

// descriptors are what a process's open files are. Directories are left out:
// cridock holds one while it measures, slowly, what a tree takes of the disk.
func descriptors(pid int) (open []string) {
	links, _ := filepath.Glob(fmt.Sprintf("/proc/%d/fd/*", pid))
	for _, l := range links {
		if info, err := os.Stat(l); err == nil && info.IsDir() {
			continue
		}
		if to, err := os.Readlink(l); err == nil {
			open = append(open, to)
		}
	}
	return open
}

// children are the PIDs of a process's children.
func children(pid int) (pids []string) {
	tasks, _ := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/children", pid))
	for _, task := range tasks {
		b, _ := os.ReadFile(task) // the thread may have ended
		pids = append(pids, strings.Fields(string(b))...)
	}
	return pids
}
