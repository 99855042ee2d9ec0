// Package logs turns Docker's json-file log of each container into the CRI log
// file that the kubelet named, every line once and in order. It reads Docker's
// files from disk and follows their rotation; where they cannot be read, the
// Engine API's stream takes their place. It never loses or repeats a line, never
// rotates, compresses or deletes a CRI log file (that is the kubelet's), never
// writes to Docker's files, and knows nothing of pods.
//
// # Where the truth is
//
// The output is a pure function of Docker's log: the same records give the same
// bytes, in whatever pieces they are read. So a position need only say
//
//	the output for Docker's log up to here ends at byte B of the CRI file I
//
// and everything in the CRI file beyond B is the beginning of the output for what
// follows. Pieces are written in this order:
//
//  1. read records from Docker's file, up to the last line feed
//  2. append their output to the CRI file
//  3. overwrite the position file, one write of less than a page
//
// A process killed anywhere in between leaves a CRI file that is ahead of the
// position, perhaps by half a line. The next one makes the same output again,
// compares it with what is there, and appends the rest: a torn line is completed,
// nothing is repeated, and the file never shrinks under a log agent's eyes. A
// write that failed half way (disk full) is taken up in the same way. None of this
// needs fsync: the page cache outlives the process. After a power failure the
// checksum in the position file, or the comparison, may fail; then the record that
// makes the last whole CRI line is looked up in Docker's files.
//
// # Docker's rotation
//
// Docker closes X, renames X.1 to X.2 and so on, X to X.1, and makes a new X. A
// file that is open stays readable under any name, and is read to its end after a
// successor was seen; the successor is opened as soon as it is there. Inode numbers
// cannot say across a restart which file a position is in, since Docker deletes and
// makes files in one go and numbers come back. The 64 bytes before the position
// can: they hold a record's time in nanoseconds. They are checksummed in the
// position. If no file has them, Docker has deleted what was not read; if the file
// in hand is not in the row any more and its successor was not opened in time, it
// may have. Then one CRI line says between which times lines may be missing, and
// Stats counts it. Max-file=1 and compressed rotation bring this about with every
// rotation that is not seen in time; cridock uses neither.
//
// # The kubelet's rotation
//
// The kubelet renames the CRI file and calls ReopenContainerLog. Output goes to
// the open file, whatever its name, until Reopen makes a new one and stores a
// position in it. A line that is half written is finished in the old file; if that
// is impossible (disk full) it is cut off there and counted in the new position by
// a negative B: this much of the output went elsewhere. A process that is started
// between the rename and the call finds the old file by its inode in the same
// directory. If the kubelet has no answer it renames the file back, over the new
// one; the lines of the new one are then copied to the old one.
//
// # Other adapters
//
// dockershim and cri-dockerd link the CRI path to Docker's file. Such a link is
// replaced by a CRI log that begins with what Docker has, as if it had been written
// all along; of a log without bounds only the newest part is carried over.
//
// # Hostile pods
//
// A pod may have its log directory, or that of all pods, for a volume. So CRI logs
// are worked on through package beneath: what leads over a link, or is no plain
// file, is refused. A log that is refused is retried like one on a full disk, but
// no exit waits for it. Only a link in place of the log itself is replaced, see
// above; what it leads to stays as it is.
//
// # Cost
//
// An idle container has three open files and one inotify watch, no goroutine and
// no buffer. The watch is good for one event; the event starts a goroutine that
// reads to the end, lets the log settle for 20 ms, and sets the watch again when
// nothing more came. So a busy container is read in large pieces without an event
// for each of its lines, and a container in trouble (disk full, a file system that
// hangs) delays no other.
//
// # The API's stream
//
// The position is then the time of the last record and how many had that time; the
// stream is opened at that time and so many are skipped. Docker filters by time, so
// of two records whose times are not in order (stdout and stderr race; all pieces
// of a long line have the time of the first) one can be missed if cridock is
// restarted just between them.
package logs
