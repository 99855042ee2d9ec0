package enginetest

import (
	"io"
	"path"
	"strings"
	"sync"

	"golang.org/x/sys/unix"
)

// firstPid is above the kernel's limit (2^22): no such process ever exists.
const firstPid = 1 << 23

// Program implements an executable. It returns its exit code, and must return soon
// after Killed is closed.
type Program func(p *Process) int

// Process is one run of a program.
type Process struct {
	// Args is the container's or exec's command, the executable first.
	Args, Env []string
	// User is the user that the container or exec was created with.
	User           string
	Stdin          io.Reader
	Stdout, Stderr io.Writer
	// Signals delivers the signals sent to it, except SIGKILL.
	Signals <-chan unix.Signal
	// Killed is closed when the process is gone: anything it still does has no effect.
	Killed <-chan struct{}
}

// Program sets the program for executables with this base name ("nginx"). An
// executable without a program cannot be started: exit code 127.
//
// Predefined are pause (exits with 0 on SIGTERM and SIGINT), sleep (exits on
// SIGKILL only, like any process 1 without handlers), true, false, cat, echo, and
// sh, which runs echo, cat, sleep, true, false and exit separated by semicolons.
func (s *Server) Program(name string, run Program) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.programs[name] = run
}

// proc is a running process.
type proc struct {
	pid     int
	signals chan unix.Signal
	killed  chan struct{}
	end     func(code int) // once
}

// spawn runs args[0] and calls ended with its exit code, without s.mu. It needs
// s.mu. It returns nil if there is no such program.
func (s *Server) spawn(p Process, ended func(code int)) *proc {
	run, ok := s.programs[path.Base(p.Args[0])]
	if !ok {
		return nil
	}
	pr := &proc{pid: s.nextPid, signals: make(chan unix.Signal, 16), killed: make(chan struct{})}
	s.nextPid++
	var once sync.Once
	pr.end = func(code int) {
		once.Do(func() {
			close(pr.killed)
			ended(code)
		})
	}
	p.Signals, p.Killed = pr.signals, pr.killed
	s.procs.Add(1)
	go func() {
		defer s.procs.Done()
		pr.end(run(&p))
	}()
	return pr
}

// signal needs no lock. A full queue loses signals, as the kernel's does.
func (p *proc) signal(sig unix.Signal) {
	if sig == unix.SIGKILL {
		p.end(128 + int(sig))
		return
	}
	select {
	case p.signals <- sig:
	default:
	}
}

func builtins() map[string]Program {
	return map[string]Program{
		"pause": pause,
		"sleep": func(p *Process) int { <-p.Killed; return 0 },
		"true":  func(*Process) int { return 0 },
		"false": func(*Process) int { return 1 },
		"cat":   cat,
		"echo":  func(p *Process) int { return echo(p, p.Args[1:]) },
		"sh":    shell,
	}
}

func pause(p *Process) int {
	for {
		select {
		case sig := <-p.Signals:
			if sig == unix.SIGTERM || sig == unix.SIGINT {
				return 0
			}
		case <-p.Killed:
			return 0
		}
	}
}

func cat(p *Process) int {
	if _, err := io.Copy(p.Stdout, p.Stdin); err != nil {
		return 1
	}
	return 0
}

func echo(p *Process, words []string) int {
	out := p.Stdout
	if n := len(words); n > 0 && words[n-1] == ">&2" {
		out, words = p.Stderr, words[:n-1]
	}
	if _, err := io.WriteString(out, strings.Join(words, " ")+"\n"); err != nil {
		return 1
	}
	return 0
}

// shell runs `sh -c SCRIPT`, or what it reads without one.
func shell(p *Process) int {
	var script string
	if len(p.Args) > 2 && p.Args[1] == "-c" {
		script = p.Args[2]
	} else if read, err := io.ReadAll(p.Stdin); err == nil {
		script = string(read)
	}
	code := 0
	for _, line := range strings.FieldsFunc(script, func(r rune) bool { return r == ';' || r == '\n' }) {
		words := strings.Fields(line)
		switch {
		case len(words) == 0:
		case words[0] == "exit":
			return exitCode(words)
		case words[0] == "echo":
			code = echo(p, words[1:])
		case words[0] == "cat":
			code = cat(p)
		case words[0] == "sleep":
			<-p.Killed
		case words[0] == "false":
			code = 1
		case words[0] == "true":
			code = 0
		default:
			_, _ = io.WriteString(p.Stderr, "sh: "+words[0]+": not found\n")
			code = 127
		}
	}
	return code
}

func exitCode(words []string) int {
	code := 0
	if len(words) > 1 {
		for _, r := range words[1] {
			code = code*10 + int(r-'0')
		}
	}
	return code & 0xff
}
