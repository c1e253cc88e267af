/* The attacker's program for CVE-2019-5736 and its relatives. Standing in the image as the program, as a script's interpreter or
 * as the dynamic loader, or watching a shared PID namespace, it looks at /proc/PID/exe of whatever it finds, and says
 *
 *   VULNERABLE PATH      the object behind it could be opened for writing: a host's file is in the container's hands
 *   sealed PATH          it cannot, for PATH is read-only for good or a sealed memfd
 *
 * access(2) is asked in place of open(2): a running program answers ETXTBSY to open(2), which is no defence (it ends), and asking
 * harms nothing. It looks at /proc/self/exe, whatever its
 * arguments, but for two: "watch" looks at every process until a file named /stop is there; "look PATH" is the control.
 */
#define O_PATH 010000000
#define F_GET_SEALS 1034
#define F_SEAL_WRITE 8
#define W_OK 2
#define MS_REMOUNT 32
#define MS_BIND 4096

#include "bare.h"

/* 1: could be opened for writing; 0: not. `link` is the file's name below /proc/self/fd. */
static int writable(long fd, const char *link)
{
	/* A read-only bind mount in the container's own mount namespace would fall to this. */
	call(SYS_mount, 0, (long)link, 0, MS_REMOUNT | MS_BIND, 0);
	long may = call(SYS_faccessat, AT_FDCWD, (long)link, W_OK, 0, 0);
	long seals = call(SYS_fcntl, fd, F_GET_SEALS, 0, 0, 0);
	return may == 0 && !(seals > 0 && (seals & F_SEAL_WRITE));
}

/* Looks at one file and says so, unless that is what `said` remembers of the last look. Opened first and named after:
 * the process may execute something else in between. */
static void look(const char *path, unsigned long *said)
{
	char link[64], target[512];
	long fd = call(SYS_openat, AT_FDCWD, (long)path, 0, 0, 0);
	if (fd < 0)
		return;
	join(link, "/proc/self/fd/", fd, "");
	long n = call(SYS_readlinkat, AT_FDCWD, (long)link, (long)target, sizeof target - 1, 0);
	target[n > 0 ? n : 0] = 0;
	int verdict = writable(fd, link);
	call(SYS_close, fd, 0, 0, 0, 0);
	unsigned long news = verdict + 2;
	for (const char *c = target; *c; c++)
		news = news * 31 + *c;
	if (news == *said)
		return;
	*said = news;
	say(verdict ? "VULNERABLE" : "sealed", n > 0 ? target : path);
}

void begin(long *stack)
{
	long argc = stack[0];
	char **argv = (char **)(stack + 1), path[64];
	unsigned long said[200];
	for (int pid = 0; pid < 200; pid++)
		said[pid] = 0;
	const char *word = argc > 1 ? argv[1] : "";
	if (is(word, "watch"))
		while (call(SYS_faccessat, AT_FDCWD, (long)"/stop", 0, 0, 0) != 0)
			for (long pid = 2; pid < 200; pid++)
				look(join(path, "/proc/", pid, "/exe"), said + pid);
	else
		look(argc > 2 && is(word, "look") ? argv[2] : "/proc/self/exe", said);
	call(SYS_exit, 7, 0, 0, 0, 0);
}
