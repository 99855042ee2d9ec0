package shim

import (
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

func TestLogHasOOM(t *testing.T) {
	id, other := strings.Repeat("a1", 32), strings.Repeat("b2", 32)
	record := func(victim, limited string) string {
		return "6,1019,480123456,-;oom-kill:constraint=CONSTRAINT_MEMCG,nodemask=(null),cpuset=docker-" + other + ".scope,mems_allowed=0," +
			"oom_memcg=/kubepods.slice/" + limited + ",task_memcg=/kubepods.slice/pod.slice/docker-" + victim + ".scope,task=dd,pid=5958,uid=0\n SUBSYSTEM=x\n"
	}
	for name, tc := range map[string]struct {
		log  []any // records and errors
		want bool
	}{
		"an empty log":                  {},
		"the container":                 {[]any{"6,1,2,-;docker0: port 1 entered disabled state\n", record(id, "docker-"+id+".scope")}, true},
		"it by its pod's limit":         {[]any{record(id, "pod.slice")}, true},
		"another one in the same pod":   {[]any{record(other, "pod.slice")}, false},
		"another one, and then it":      {[]any{record(other, "pod.slice"), record(id, "pod.slice")}, true},
		"after a gap":                   {[]any{unix.EPIPE, unix.EINTR, record(id, "pod.slice")}, true},
		"a line in two records":         {[]any{"6,7,480123456,-;oom-kill:constraint=CONSTRAINT_MEMCG\n", "6,9,480123458,-;,task_memcg=/docker-" + id + ".scope,task=dd,pid=1,uid=0\n"}, true},
		"a log that ends with an error": {[]any{unix.EIO, record(id, "pod.slice")}, false},
		"it by its limit alone":         {[]any{"6,1,2,-;oom-kill:constraint=CONSTRAINT_MEMCG,oom_memcg=/docker-" + id + ".scope,task_memcg=/,task=dd\n"}, false},
		"a name that it is a part of":   {[]any{"6,1,2,-;oom-kill:constraint=CONSTRAINT_NONE,global_oom,task_memcg=/,task=" + id + "\n"}, false},
	} {
		t.Run(name, func(t *testing.T) {
			read := func(p []byte) (int, error) {
				if len(tc.log) == 0 {
					return 0, unix.EAGAIN
				}
				next := tc.log[0]
				tc.log = tc.log[1:]
				if err, ok := next.(error); ok {
					return -1, err
				}
				return copy(p, next.(string)), nil
			}
			if got := logHasOOM(read, id); got != tc.want {
				t.Errorf("got %v, want %v", got, tc.want)
			}
		})
	}
}
