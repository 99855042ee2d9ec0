package translate

import (
	"runtime"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// FuzzResolveUser: whatever accounts an image has, a requested number is the uid of
// the process, and so is a uid reported for USER; all ids are valid, and Docker
// resolves them to the same groups.
func FuzzResolveUser(f *testing.F) {
	f.Add("app:staff", "", int64(-1), int64(-1), int64(99), true, []byte(testPasswd), []byte(testGroup))
	f.Add("1000", "", int64(1000), int64(-1), int64(3000), false, []byte("1000:x:0:0::/:\r\n"), []byte("3000:x:0:\n1000:x:0:1000"))
	f.Add("", "1000", int64(-1), int64(5), int64(-1), true, []byte("1000:x:0:0\n:x:1000:1000\n+::::\n"), []byte("5\n"))
	f.Add("4294967296:-0", "99999999999999999999", int64(-1), int64(-1), int64(1<<31), true, []byte("4294967296:x:0:0\n"), []byte("a:x:1:\x00,\n"))
	f.Fuzz(func(t *testing.T, imageUser, username string, user, primary, extra int64, strict bool, passwd, group []byte) {
		sc := &runtimeapi.LinuxContainerSecurityContext{RunAsUsername: username}
		if user >= 0 {
			sc.RunAsUser = &runtimeapi.Int64Value{Value: user}
		}
		if primary >= 0 {
			sc.RunAsGroup = &runtimeapi.Int64Value{Value: primary}
		}
		if extra >= 0 {
			sc.SupplementalGroups = []int64{extra}
		}
		if strict {
			sc.SupplementalGroupsPolicy = runtimeapi.SupplementalGroupsPolicy_Strict
		}
		// CPU time of the thread: a busy machine does not count.
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		start := threadTime(t)
		got, err := ResolveUser(sc, imageUser, passwd, group)
		if took, size := threadTime(t)-start, len(passwd)+len(group); took > time.Second+time.Duration(size)*10*time.Microsecond {
			t.Errorf("%v for %d bytes", took, size)
		}
		if err != nil {
			classified(t, err)
			return
		}
		checkResolved(t, got, sc, group)
		if uid, ok := askedUID(sc, imageUser); ok && got.UID != uid {
			t.Errorf("runs as %d, asked for %d", got.UID, uid)
		}
		if sc.RunAsGroup != nil && got.GID != primary {
			t.Errorf("runs with group %d, asked for %d", got.GID, primary)
		}
	})
}

// threadTime returns the CPU time of the calling thread.
func threadTime(t *testing.T) time.Duration {
	t.Helper()
	var u unix.Rusage
	if err := unix.Getrusage(unix.RUSAGE_THREAD, &u); err != nil {
		t.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// askedUID returns the number in the request, else in the image as ImageStatus
// reports it; false for a name.
func askedUID(sc *runtimeapi.LinuxContainerSecurityContext, imageUser string) (int64, bool) {
	if sc.RunAsUser != nil {
		return sc.RunAsUser.Value, true
	}
	if sc.RunAsUsername != "" {
		uid, err := strconv.ParseInt(sc.RunAsUsername, 10, 64)
		return uid, err == nil
	}
	image := CRIImage(Image{User: imageUser}, false)
	return image.GetUid().GetValue(), image.Uid != nil || image.Username == ""
}

func checkResolved(t *testing.T, got User, sc *runtimeapi.LinuxContainerSecurityContext, group []byte) {
	t.Helper()
	if got.Docker != strconv.FormatInt(got.UID, 10)+":"+strconv.FormatInt(got.GID, 10) {
		t.Errorf("Docker's user %q is not %d:%d", got.Docker, got.UID, got.GID)
	}
	if !slices.IsSorted(got.Groups) || len(slices.Compact(slices.Clone(got.Groups))) != len(got.Groups) {
		t.Errorf("groups %v", got.Groups)
	}
	for _, id := range append([]int64{got.UID, got.GID}, got.Groups...) {
		if !validID(id) {
			t.Errorf("id %d", id)
		}
	}
	asked := append([]int64{got.GID}, sc.SupplementalGroups...)
	for _, g := range asked {
		if !slices.Contains(got.Groups, g) {
			t.Errorf("groups %v lack %d", got.Groups, g)
		}
	}
	slices.Sort(asked)
	if sc.SupplementalGroupsPolicy == runtimeapi.SupplementalGroupsPolicy_Strict && !slices.Equal(got.Groups, slices.Compact(asked)) {
		t.Errorf("groups %v, want %v", got.Groups, asked)
	}
	lookedUp := dockerGroups(append(got.GroupAdd, strconv.FormatInt(got.GID, 10)), string(group))
	if !slices.Equal(lookedUp, got.Groups) {
		t.Errorf("Docker makes groups %v of %v", lookedUp, got.Groups)
	}
}

// dockerGroups returns the groups that Docker and runc give a process: they look
// each up by name or number, the first line with either wins, and an invalid
// number is 0.
func dockerGroups(groups []string, file string) (gids []int64) {
	for _, g := range groups {
		gid, err := strconv.ParseInt(g, 10, 64)
		if err != nil {
			return nil
		}
		for line := range strings.Lines(file) {
			fields := append(strings.Split(strings.TrimSpace(line), ":"), "", "", "")
			if id, _ := strconv.Atoi(fields[2]); strings.TrimSpace(line) != "" && (fields[0] == g || strconv.Itoa(id) == g) {
				gid = int64(id)
				break
			}
		}
		gids = append(gids, gid)
	}
	slices.Sort(gids)
	return slices.Compact(gids)
}

// BenchmarkResolveUser uses account files of the maximum size.
func BenchmarkResolveUser(b *testing.B) {
	for name, file := range map[string]string{
		"lines":   strings.Repeat("g:x:5:a,b\n", 100_000),
		"colons":  strings.Repeat(":", 1<<20),
		"members": "g:x:5:" + strings.Repeat(",", 1<<20),
	} {
		b.Run(name, func(b *testing.B) {
			for b.Loop() {
				if _, err := ResolveUser(nil, "", []byte(file), []byte(file)); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
