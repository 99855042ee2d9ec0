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

/* A set of 64 signals as the kernel has it, also on 32 bits if little-endian. */
typedef unsigned long long sigset;

/* Signal and wait constants, equal on all of these architectures (signal(7), wait(2)). */
enum {
	SIGINT_ = 2,
	SIGTERM_ = 15,
	SIGCHLD_ = 17,
	SIG_BLOCK_ = 0,
	WNOHANG_ = 1,
};

#define MASK(sig) (1ULL << ((sig) - 1))

#if defined(__x86_64__)

enum { SYS_rt_sigprocmask = 14, SYS_wait4 = 61, SYS_rt_sigtimedwait = 128, SYS_exit_group = 231 };

#elif defined(__aarch64__) || defined(__riscv)

/* The kernel's generic numbers, asm-generic/unistd.h. */
enum { SYS_exit_group = 94, SYS_rt_sigprocmask = 135, SYS_rt_sigtimedwait = 137, SYS_wait4 = 260 };

#elif defined(__arm__) || defined(__s390x__)

enum { SYS_wait4 = 114, SYS_rt_sigprocmask = 175, SYS_rt_sigtimedwait = 177, SYS_exit_group = 248 };

#elif defined(__powerpc64__)

enum { SYS_wait4 = 114, SYS_rt_sigprocmask = 174, SYS_rt_sigtimedwait = 176, SYS_exit_group = 234 };

#else
#error "pause: unsupported architecture"
#endif

#if defined(__x86_64__)

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

#elif defined(__riscv)

static long syscall4(long nr, long a, long b, long c, long d)
{
	register long a7 __asm__("a7") = nr;
	register long a0 __asm__("a0") = a;
	register long a1 __asm__("a1") = b;
	register long a2 __asm__("a2") = c;
	register long a3 __asm__("a3") = d;

	__asm__ volatile("ecall" : "+r"(a0) : "r"(a7), "r"(a1), "r"(a2), "r"(a3) : "memory");
	return a0;
}

#elif defined(__arm__)

static long syscall4(long nr, long a, long b, long c, long d)
{
	register long r7 __asm__("r7") = nr;
	register long r0 __asm__("r0") = a;
	register long r1 __asm__("r1") = b;
	register long r2 __asm__("r2") = c;
	register long r3 __asm__("r3") = d;

	__asm__ volatile("svc 0" : "+r"(r0) : "r"(r7), "r"(r1), "r"(r2), "r"(r3) : "memory");
	return r0;
}

#elif defined(__s390x__)

static long syscall4(long nr, long a, long b, long c, long d)
{
	register long r1 __asm__("1") = nr;
	register long r2 __asm__("2") = a;
	register long r3 __asm__("3") = b;
	register long r4 __asm__("4") = c;
	register long r5 __asm__("5") = d;

	__asm__ volatile("svc 0" : "+d"(r2) : "d"(r1), "d"(r3), "d"(r4), "d"(r5) : "cc", "memory");
	return r2;
}

#elif defined(__powerpc64__)

static long syscall4(long nr, long a, long b, long c, long d)
{
	register long r0 __asm__("r0") = nr;
	register long r3 __asm__("r3") = a;
	register long r4 __asm__("r4") = b;
	register long r5 __asm__("r5") = c;
	register long r6 __asm__("r6") = d;

	/* An error is a positive number and the summary overflow bit. */
	__asm__ volatile("sc\n\tbns+ 1f\n\tneg %1, %1\n1:"
			 : "+r"(r0), "+r"(r3), "+r"(r4), "+r"(r5), "+r"(r6)
			 :
			 : "r7", "r8", "r9", "r10", "r11", "r12", "cr0", "ctr", "memory");
	return r3;
}

#endif

/* The kernel's entry point: there is no C runtime to call main. */
__attribute__((noreturn)) void _start(void)
{
	const sigset all = ~0ULL;
	const sigset waited = MASK(SIGINT_) | MASK(SIGTERM_) | MASK(SIGCHLD_);

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
