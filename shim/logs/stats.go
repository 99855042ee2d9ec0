package logs

import (
	"os"
	"sync/atomic"
)

type counters struct {
	lines, sourceBytes, criBytes       atomic.Uint64
	losses, malformed                  atomic.Uint64
	errors, positionErrors             atomic.Uint64
	reopens, drainFailures, apiStreams atomic.Uint64
}

// Stats are counters since New, and current gauges.
type Stats struct {
	Lines       uint64 // records copied
	SourceBytes uint64 // read from Docker
	CRIBytes    uint64 // written to CRI logs

	Losses    uint64 // times Docker may have deleted unread records
	Malformed uint64 // lines in Docker's files without a record

	Errors         uint64 // failed reads and writes that were retried
	PositionErrors uint64 // failed writes of position files
	DrainFailures  uint64 // drains given up
	Reopens        uint64
	APIStreams     uint64 // streams opened because Docker's files could not be read

	Containers int   // followed
	Troubled   int   // whose last attempt failed
	Streamed   int   // read from the Engine API, whose lag is unknown
	LagBytes   int64 // in Docker's files, not copied yet

	// MostBehind is the container with the greatest lag, MostBehindBytes its lag;
	// empty if there is none.
	MostBehind      string
	MostBehindBytes int64
}

// Stats returns the current statistics. It reads the size of every followed
// container's log, which takes microseconds each.
func (t *Tailer) Stats() Stats {
	c := &t.count
	s := Stats{
		Lines: c.lines.Load(), SourceBytes: c.sourceBytes.Load(), CRIBytes: c.criBytes.Load(),
		Losses: c.losses.Load(), Malformed: c.malformed.Load(),
		Errors: c.errors.Load(), PositionErrors: c.positionErrors.Load(), DrainFailures: c.drainFailures.Load(),
		Reopens: c.reopens.Load(), APIStreams: c.apiStreams.Load(),
	}
	for _, f := range t.all() {
		s.Containers++
		if f.trouble.now.Load() {
			s.Troubled++
		}
		if f.api.used.Load() {
			s.Streamed++
		}
		lag := f.lag()
		s.LagBytes += lag
		if lag > s.MostBehindBytes {
			s.MostBehind, s.MostBehindBytes = f.src.ID, lag
		}
	}
	return s
}

// lag returns the total size of the files newer than the one being read, plus the
// unread rest of that one.
func (f *follower) lag() int64 {
	if f.src.DockerLog == "" || f.api.used.Load() {
		return 0
	}
	inode, offset := f.read.inode.Load(), f.read.offset.Load()
	var sum int64
	for n := 0; ; n++ {
		info, err := os.Stat(rotatedPath(f.src.DockerLog, n))
		if err != nil {
			return sum
		}
		sum += info.Size()
		if idOf(info).ino == inode {
			return max(0, sum-offset)
		}
	}
}
