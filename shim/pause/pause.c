//go:build ignore

/*
 * pause holds the namespaces of a pod sandbox open and does nothing else.
 *
 * It reaps every child it is given: as PID 1 of a shared PID namespace it is
 * the parent of all orphans, and an unreaped orphan occupies a PID until the
 * pod ends. On SIGTERM and SIGINT it leaves at once with exit code 0. Every
 * other signal that can be blocked is blocked and stays pending, so that pause
 * also survives a stray SIGHUP when it is not PID 1 (pods on the host's PID
 * namespace). It sleeps in rt_sigtimedwait(2) and uses no CPU.
 *
 * Freestanding: no libc, no writable data, system calls only. The build
 * constraint above keeps the Go tool from taking this file for cgo; see
 * build.sh.
 */

typedef unsigned long ulong;

/* Signal and wait constants, equal on both architectures (signal(7), wait(2)). */
enum {
	SIGINT_ = 2,
	SIGTERM_ = 15,
	SIGCHLD_ = 17,
	SIG_BLOCK_ = 0,
	WNOHANG_ = 1,
};

#define MASK(sig) (1UL << ((sig) - 1))

#if defined(__x86_64__)

enum { SYS_rt_sigprocmask = 14, SYS_wait4 = 61, SYS_rt_sigtimedwait = 128, SYS_exit_group = 231 };

static long syscall4(long nr, long a, long b, long c, long d)
{
	long ret;
	register long r10 __asm__("r10") = d;

	__asm__ volatile("syscall"
			 : "=a"(ret)
			 : "a"(nr), "D"(a), "S"(b), "d"(c), "r"(r10)
			 : "rcx", "r11", "memory");
	return ret;
}

#elif defined(__aarch64__)

enum { SYS_exit_group = 94, SYS_rt_sigprocmask = 135, SYS_rt_sigtimedwait = 137, SYS_wait4 = 260 };

static long syscall4(long nr, long a, long b, long c, long d)
{
	register long x8 __asm__("x8") = nr;
	register long x0 __asm__("x0") = a;
	register long x1 __asm__("x1") = b;
	register long x2 __asm__("x2") = c;
	register long x3 __asm__("x3") = d;

	__asm__ volatile("svc 0" : "+r"(x0) : "r"(x8), "r"(x1), "r"(x2), "r"(x3) : "memory");
	return x0;
}

#else
#error "pause: unsupported architecture"
#endif

/* The kernel's entry point: there is no C runtime to call main. */
__attribute__((noreturn)) void _start(void)
{
	const ulong all = ~0UL;
	const ulong waited = MASK(SIGINT_) | MASK(SIGTERM_) | MASK(SIGCHLD_);

	/*
	 * Blocked signals are queued even for PID 1, for which the kernel drops
	 * unblocked ones that have no handler. Faults and SIGKILL still kill.
	 */
	syscall4(SYS_rt_sigprocmask, SIG_BLOCK_, (long)&all, 0, sizeof(all));

	for (;;) {
		/* One pending SIGCHLD can stand for many children: reap until none is left. */
		while (syscall4(SYS_wait4, -1, 0, WNOHANG_, 0) > 0)
			;

		/*
		 * EINTR (a debugger, a freezer) falls through to another round. A
		 * SIGCHLD that arrives after the loop above stays pending, so none
		 * is missed.
		 */
		long sig = syscall4(SYS_rt_sigtimedwait, (long)&waited, 0, 0, sizeof(waited));

		if (sig == SIGTERM_ || sig == SIGINT_)
			break;
	}

	for (;;)
		syscall4(SYS_exit_group, 0, 0, 0, 0);
}
