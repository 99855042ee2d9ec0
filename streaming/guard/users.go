package guard

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"sync"

	"golang.org/x/sys/unix"
)

// Sizes and offsets in the messages of sock_diag(7): struct nlmsghdr,
// inet_diag_req_v2 and the beginning of inet_diag_msg.
const (
	headerSize  = unix.SizeofNlMsghdr
	requestSize = headerSize + 56
	stateOffset = headerSize + 1
	uidOffset   = headerSize + 64
	answerSize  = headerSize + 72

	established = 1
)

// socketUsers finds the users who own TCP sockets of this network namespace. It is
// safe for concurrent use.
type socketUsers struct {
	mu sync.Mutex
	fd int // -1: not available
}

func openSocketUsers() *socketUsers {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, unix.NETLINK_SOCK_DIAG)
	if err != nil {
		return &socketUsers{fd: -1}
	}
	// The kernel answers before the request has returned; nothing to wait for.
	if err := unix.SetNonblock(fd, true); err != nil {
		_ = unix.Close(fd)
		fd = -1
	}
	return &socketUsers{fd: fd}
}

func (u *socketUsers) close() error {
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.fd < 0 {
		return nil
	}
	fd := u.fd
	u.fd = -1
	return unix.Close(fd)
}

var errNoUser = errors.New("cannot get the user of a socket from the kernel")

// find returns the user of the socket that is bound to addr and connected to peer.
// It fails for closed sockets, for which the kernel returns root.
func (u *socketUsers) find(addr, peer netip.AddrPort) (uid uint32, err error) {
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.fd < 0 {
		return 0, errNoUser
	}
	if err := unix.Sendto(u.fd, socketRequest(addr, peer), 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}); err != nil {
		return 0, fmt.Errorf("%w: %w", errNoUser, err)
	}
	var buf [1024]byte
	n, _, err := unix.Recvfrom(u.fd, buf[:], 0)
	if err != nil {
		return 0, fmt.Errorf("%w: %w", errNoUser, err)
	}
	answer := buf[:n]
	if n < answerSize || binary.NativeEndian.Uint16(answer[4:]) != unix.SOCK_DIAG_BY_FAMILY || answer[stateOffset] != established {
		return 0, errNoUser
	}
	return binary.NativeEndian.Uint32(answer[uidOffset:]), nil
}

// socketRequest asks for one TCP socket.
func socketRequest(addr, peer netip.AddrPort) []byte {
	b := make([]byte, requestSize)
	binary.NativeEndian.PutUint32(b[0:], requestSize)
	binary.NativeEndian.PutUint16(b[4:], unix.SOCK_DIAG_BY_FAMILY)
	binary.NativeEndian.PutUint16(b[6:], unix.NLM_F_REQUEST)
	r := b[headerSize:]
	from, to := addr.Addr().Unmap(), peer.Addr().Unmap()
	r[0] = unix.AF_INET
	if from.Is6() {
		r[0] = unix.AF_INET6
	}
	r[1] = unix.IPPROTO_TCP
	binary.NativeEndian.PutUint32(r[4:], 1<<established)
	binary.BigEndian.PutUint16(r[8:], addr.Port())
	binary.BigEndian.PutUint16(r[10:], peer.Port())
	copy(r[12:28], from.AsSlice())
	copy(r[28:44], to.AsSlice())
	// r[44:48] is the interface: any. The cookie is set to "none".
	binary.NativeEndian.PutUint64(r[48:], ^uint64(0))
	return b
}
