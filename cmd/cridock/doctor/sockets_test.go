package doctor

import (
	"errors"
	"net"
	"os"
	"strings"
	"testing"
	"time"
)

// TestNoServiceIsStarted: nothing connects to a socket on which systemd alone
// listens, whoever's it is: systemd would start its service.
func TestNoServiceIsStarted(t *testing.T) {
	for _, path := range []string{"/run/cri-dockerd.sock", "/run/crio/crio.sock", "/run/cridock/cridock.sock"} {
		t.Run(path, func(t *testing.T) {
			x := newTree(t)
			l := x.bind(path, 0o660).(*net.UnixListener)
			x.write("/proc/1/comm", "systemd\n")
			x.hold(1, otherProgram, x.bound(path))
			x.examine()
			// A connection would be waiting.
			if err := l.SetDeadline(time.Now().Add(50 * time.Millisecond)); err != nil {
				t.Fatal(err)
			}
			if conn, err := l.Accept(); !errors.Is(err, os.ErrDeadlineExceeded) {
				t.Errorf("a connection: %v, %v", conn, err)
			}
		})
	}
}

func TestReadSockets(t *testing.T) {
	x := newTree(t)
	x.link("/run/cridock/cridock.sock", "/run/link.sock")
	inode := x.bound("/var/run/cridock/cridock.sock") // as it was bound
	x.hold(5, otherProgram, inode)
	x.hold(6, cridockProgram, inode)
	x.hold(7, cridockProgram, 1)
	x.bound("@/run/abstract.sock")
	x.write("/proc/net/unix", x.read("/proc/net/unix")+
		"0: 00000003 00000000 00000000 0001 03 8000 /run/connected.sock\n"+
		"0: 00000002 00000000 zz 0001 01 8001 /run/odd.sock\n"+
		"0: 00000002 00000000 00010000 0001 01 8002\n")
	x.sockets = x.readSockets([]string{"/run/link.sock", "/run/connected.sock", "/run/odd.sock", "/run/abstract.sock"})
	if x.sockets.err != nil || len(x.sockets.byPath) != 1 {
		t.Errorf("%+v", x.sockets)
	}
	for _, path := range []string{"/run/link.sock", "/run/cridock/cridock.sock", "unix:///var/run/cridock/cridock.sock"} {
		if l, listens := x.listener(path); !listens || l != (listener{cridock: true, other: true}) {
			t.Errorf("%s: %+v, %v", path, l, listens)
		}
	}
}

// TestMigrateIsTheCure: a node with an old adapter is told the command that replaces it.
func TestMigrateIsTheCure(t *testing.T) {
	for _, server := range []string{"cri-dockerd", "dockershim"} {
		if got := (endpoint{"/run/x.sock", server}).served(); !strings.Contains(got.Cure, "cridock migrate --from "+server+";") {
			t.Errorf("%s: the cure is %q", server, got.Cure)
		}
	}
}
