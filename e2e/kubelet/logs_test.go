package kubelet

import (
	"bufio"
	"compress/gzip"
	"context"
	"fmt"
	"io"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"sort"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
)

func testLogs(t *testing.T, k *kubelet) {
	main := k.shell("main", `for i in 1 2 3; do echo out $i; done; usleep 100000
		until [ -e /host/err ]; do usleep 100000; done; echo err 1 >&2; usleep 100000
		until [ -e /host/go ]; do usleep 100000; done; echo on; printf 'no newline'; exit 1`)
	pod := newPod("logs", main)
	dir := hostDir(t, pod, "/host")
	l := k.run(t, pod)
	l.awaitReady()
	// Docker records the two streams independently.
	eventually(t, "three lines", limit, func() bool { return strings.Count(l.logs("main", nil), "\n") == 3 })
	if err := os.WriteFile(filepath.Join(dir, "err"), nil, 0o644); err != nil {
		t.Fatal(err)
	}
	eventually(t, "four lines", limit, func() bool { return strings.Count(l.logs("main", nil), "\n") == 4 })
	expect(t, "lines of stdout", strings.Count(l.logs("main", nil), "out "), 3)
	expect(t, "tail", strings.Count(l.logs("main", url.Values{"tailLines": {"2"}}), "\n"), 2)
	expect(t, "limit", l.logs("main", url.Values{"limitBytes": {"5"}}), "out 1")
	expect(t, "since the future", l.logs("main", url.Values{"sinceTime": {time.Now().Add(time.Hour).UTC().Format(time.RFC3339)}}), "")
	stamp := regexp.MustCompile(`(?m)^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d+(Z|[+-]\d\d:\d\d) (out|err) \d$`)
	if stamped := l.logs("main", url.Values{"timestamps": {"true"}}); len(stamp.FindAllString(stamped, -1)) != 4 {
		t.Errorf("with time stamps: got %q", stamped)
	}
	testFollow(t, l, dir)
	l.await("restarted", func(s *corev1.PodStatus) bool { return container(s, "main").RestartCount > 0 })
	l.awaitPrevious("out 1\nout 2\nout 3\nerr 1\non\nno newline")
}

// awaitPrevious waits for the log of the previous container. It is unavailable
// while the kubelet removes an older one.
func (l *live) awaitPrevious(want string) {
	l.t.Helper()
	var log string
	eventually(l.t, "log of the previous container", limit, func() bool {
		var err error
		log, err = l.tryLogs("main", url.Values{"previous": {"true"}})
		return err == nil && log == want
	})
}

// testFollow follows the log until the container exits.
func testFollow(t *testing.T, l *live, dir string) {
	ctx, cancel := context.WithTimeout(context.Background(), limit)
	defer cancel()
	body, err := open(ctx, l.httpClient(), l.url("containerLogs", "main", url.Values{"follow": {"true"}, "tailLines": {"1"}}).String())
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = body.Close() }()
	log := bufio.NewReader(body)
	// The kubelet responds before it has read the log.
	if line, err := log.ReadString('\n'); err != nil || line != "err 1\n" {
		t.Fatalf("last line: got %q, %v", line, err)
	}
	if err := os.WriteFile(filepath.Join(dir, "go"), nil, 0o644); err != nil {
		t.Fatal(err)
	}
	followed, err := io.ReadAll(log)
	if err != nil {
		t.Fatal(err)
	}
	expect(t, "followed to the end", string(followed), "on\nno newline")
}

func testLogRotation(t *testing.T, k *kubelet) {
	// 40,000 bytes a second including the format's overhead, for longer than three
	// of the kubelet's checks.
	main := k.shell("main", `i=0; while [ $i -lt 12000 ]; do i=$((i+1)); echo "$i 0123456789012345678901234567890123456789"; [ $((i%50)) -gt 0 ] || usleep 100000; done; echo done; touch /host/done; sleep 3600`)
	pod := newPod("rotation", main)
	dir := hostDir(t, pod, "/host")
	l := k.run(t, pod)
	l.awaitReady()
	awaitFile(t, filepath.Join(dir, "done"))
	var lines []string
	eventually(t, "rotated twice and all written", limit, func() bool {
		lines = l.wholeLog("main")
		return len(l.logFiles("main")) >= 3 && len(lines) > 0 && lines[len(lines)-1] == "done"
	})
	t.Logf("%d lines in %d files", len(lines), len(l.logFiles("main")))
	checkCount(t, lines[:len(lines)-1], 12000)
}

// wholeLog returns the lines of all files of a container's log, or nil if the log was
// rotated, or a line written, while it was read.
func (l *live) wholeLog(container string) (lines []string) {
	l.t.Helper()
	files := l.logFiles(container)
	for _, f := range files {
		more, err := readLog(f)
		if err != nil {
			return nil
		}
		lines = append(lines, more...)
	}
	if !slices.Equal(files, l.logFiles(container)) {
		return nil
	}
	return lines
}

// checkCount looks for gaps in lines that begin with their numbers, from 1.
func checkCount(t *testing.T, lines []string, want int) {
	t.Helper()
	for i, line := range lines {
		if n, _, _ := strings.Cut(line, " "); n != fmt.Sprint(i+1) {
			t.Fatalf("line %d of %d is %q", i+1, len(lines), line)
		}
	}
	expect(t, "lines", len(lines), want)
}

// logFiles returns the files of a container's log, the oldest first.
func (l *live) logFiles(container string) []string {
	l.t.Helper()
	files, err := filepath.Glob(fmt.Sprintf("/var/log/pods/%s_%s_%s/%s/*.log*", namespace, l.name, l.uid, container))
	if err != nil {
		l.t.Fatal(err)
	}
	var rotated, current []string
	for _, f := range files {
		switch {
		case strings.HasSuffix(f, ".log"):
			current = append(current, f)
		case !strings.HasSuffix(f, ".tmp"):
			rotated = append(rotated, f)
		}
	}
	sort.Strings(rotated) // sorted by time
	return append(rotated, current...)
}

// readLog returns the lines of a file in the CRI format, compressed or not.
func readLog(path string) ([]string, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer func() { _ = f.Close() }()
	var r io.Reader = f
	if strings.HasSuffix(path, ".gz") {
		if r, err = gzip.NewReader(f); err != nil {
			return nil, err
		}
	}
	var lines []string
	scanner := bufio.NewScanner(r)
	for scanner.Scan() {
		parts := strings.SplitN(scanner.Text(), " ", 4)
		if len(parts) != 4 || parts[2] != "F" {
			return nil, fmt.Errorf("%s: not a whole line of the CRI's format: %q", path, scanner.Text())
		}
		lines = append(lines, parts[3])
	}
	return lines, scanner.Err()
}
