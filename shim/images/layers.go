package images

import (
	"sync"

	"github.com/cridock/cridock/translate"
)

// layers knows the directories of the containers' writable layers. With the
// containerd image store Docker does not report them: they are learned from the
// containers' processes and remembered after the exit. The layer of a container
// that this process has never seen running is unknown and counts as an image's.
// The zero value is ready.
type layers struct {
	mu      sync.Mutex
	learned map[string]string // by container ID
}

// dirs returns the known directories of containers and forgets all others;
// upperDir finds that of a container that runs.
func (l *layers) dirs(containers []*translate.Container, upperDir func(id string, pid int) (string, error)) []string {
	l.mu.Lock()
	defer l.mu.Unlock()
	dirs, learned := make([]string, 0, len(containers)), map[string]string{}
	for _, c := range containers {
		dir := c.UpperDir
		if dir == "" {
			if dir = l.learned[c.ID]; dir == "" && c.Pid > 0 {
				dir, _ = upperDir(c.ID, c.Pid) // it may have exited by now
			}
			learned[c.ID] = dir
		}
		if dir != "" {
			dirs = append(dirs, dir)
		}
	}
	l.learned = learned
	return dirs
}
