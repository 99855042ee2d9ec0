package stats

import (
	"bytes"
	"fmt"
	"os"
	"strconv"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// blockDevices maps device numbers to the names that dashboards use.
type blockDevices struct {
	root string // sysfs

	mu    sync.Mutex
	names map[[2]uint64]string
	since time.Time
}

// blockNamesAge is how long names are kept: numbers are reused when disks come
// and go.
const blockNamesAge = time.Minute

// name returns /dev/<the kernel's name>, or major:minor for anything that is not
// a block device.
func (b *blockDevices) name(major, minor uint64) string {
	b.mu.Lock()
	defer b.mu.Unlock()
	if time.Since(b.since) > blockNamesAge {
		b.names, b.since = map[[2]uint64]string{}, time.Now()
	}
	key := [2]uint64{major, minor}
	name, ok := b.names[key]
	if !ok {
		name = b.read(major, minor)
		b.names[key] = name
	}
	return name
}

func (b *blockDevices) read(major, minor uint64) string {
	name := fmt.Sprintf("%d:%d", major, minor)
	_ = withFile(unix.AT_FDCWD, b.root+"/dev/block/"+name+"/uevent", func(content []byte) error {
		for line := range bytes.Lines(content) {
			if v, ok := bytes.CutPrefix(bytes.TrimSpace(line), []byte("DEVNAME=")); ok {
				name = "/dev/" + string(v)
			}
		}
		return nil
	})
	return name
}

// hugePageSizes returns the machine's page sizes, as the hugetlb controller writes
// them. They do not change while it runs.
func hugePageSizes(sysRoot string) []string {
	// A missing sysfs is the same as no huge pages.
	entries, _ := os.ReadDir(sysRoot + "/kernel/mm/hugepages")
	var sizes []string
	for _, e := range entries {
		kib, ok := strings.CutPrefix(strings.TrimSuffix(e.Name(), "kB"), "hugepages-")
		if n, err := strconv.ParseUint(kib, 10, 44); ok && err == nil {
			sizes = append(sizes, pageSize(n))
		}
	}
	return sizes
}

// pageSize formats a size in KiB as in hugetlb's file names: 64KB, 2MB, 1GB.
func pageSize(kib uint64) string {
	switch {
	case kib >= 1<<20:
		return fmt.Sprintf("%dGB", kib>>20)
	case kib >= 1<<10:
		return fmt.Sprintf("%dMB", kib>>10)
	}
	return fmt.Sprintf("%dKB", kib)
}
