// Package logs turns Docker's json-file log of each container into the CRI log
// file that the kubelet named, every line once and in order. It reads Docker's
// files from disk and follows their rotation; if they cannot be read, it uses the
// Engine API's stream instead. It never loses or repeats a line, never rotates,
// compresses or deletes a CRI log file (that is the kubelet's job), never writes
// to Docker's files, and knows nothing of pods.
//
// # Positions and recovery
//
// The output is a pure function of Docker's log: the same records give the same
// bytes, in whatever pieces they are read. So a position only needs to state
//
//	the output for Docker's log up to here ends at byte B of the CRI file I
//
// and everything in the CRI file beyond B is the beginning of the output for what
// follows. Each piece takes these steps:
//
//  1. read records from Docker's file, up to the last line feed
//  2. append their output to the CRI file
//  3. overwrite the position file, in one write of less than a page
//
// A process killed at any point leaves a CRI file that is ahead of the position,
// perhaps by half a line. The next process produces the same output again,
// compares it with the file, and appends the rest: a torn line is completed,
// nothing is repeated, and the file never shrinks while a log agent reads it. A
// partial write (disk full) is continued in the same way. None of this needs
// fsync: the page cache outlives the process. After a power failure the checksum
// in the position file, or the comparison, may fail; then the record that produced
// the last whole CRI line is searched for in Docker's files.
//
// # Docker's rotation
//
// Docker closes X, renames X.1 to X.2 and so on, X to X.1, and creates a new X. An
// open file stays readable under any name, and is read to its end after a
// successor was seen; the successor is opened as soon as it exists. Inode numbers
// cannot identify a position's file across a restart, since Docker deletes and
// creates files in quick succession and the numbers are reused. The 64 bytes before
// the position can: they hold a record's time in nanoseconds. The position has
// their checksum. If no file has them, Docker has deleted unread records; if the
// current file is no longer among Docker's and its successor was not opened in
// time, it may have. Then one CRI line says between which times lines may be
// missing, and Stats counts it. With max-file=1 or compressed rotation this happens
// at every rotation that is not seen in time; cridock uses neither.
//
// # The kubelet's rotation
//
// The kubelet renames the CRI file and calls ReopenContainerLog. Output goes to
// the open file, whatever its name, until Reopen creates a new one and stores a
// position in it. A half-written line is finished in the old file; if that is
// impossible (disk full), the line is cut off there, and a negative B in the new
// position says how much of the output went elsewhere. A process started between
// the rename and the call finds the old file by its inode in the same directory. If
// the kubelet gets no answer, it renames the file back, over the new one; the lines
// of the new one are then copied to the old one.
//
// # Other adapters
//
// dockershim and cri-dockerd link the CRI path to Docker's file. Such a link is
// replaced by a CRI log that begins with what Docker has, as if it had been written
// from the start; of an unbounded log only the newest part is copied.
//
// # Hostile pods
//
// A pod may mount its log directory, or that of all pods, as a volume. So CRI logs
// are accessed through package beneath, which refuses paths that contain a link or
// are not plain files. A refused log is retried like one on a full disk, but no
// exit waits for it. Only a link in place of the log itself is replaced, see
// above; its target is not touched.
//
// # Cost
//
// An idle container has three open files and one inotify watch, no goroutine and
// no buffer. The watch fires once; the event starts a goroutine that reads to the
// end, lets the log settle for 20 ms, and rearms the watch when nothing more has
// arrived. So a busy container is read in large pieces without an event for each
// line, and a failing log (disk full, a file system that hangs) delays no other.
//
// # The API's stream
//
// The position is then the time of the last record and the number of records with
// that time; the stream is opened at that time and that many records are skipped.
// Docker filters by time, so of two records whose times are out of order (stdout
// and stderr race; all pieces of a long line have the time of the first) one can be
// missed if cridock is restarted exactly between them.
package logs
