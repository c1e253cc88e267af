/* What the attackers' programs share: system calls, and words. No C library, so that they run in an empty image, and as a loader. */
#define AT_FDCWD -100

#if defined(__x86_64__)
enum {
	SYS_read = 0, SYS_write = 1, SYS_close = 3, SYS_wait4 = 61, SYS_fcntl = 72, SYS_ptrace = 101, SYS_mount = 165, SYS_exit = 231,
	SYS_keyctl = 250, SYS_openat = 257, SYS_readlinkat = 267, SYS_faccessat = 269
};
static long call(long number, long a, long b, long c, long d, long e)
{
	register long r10 __asm__("r10") = d;
	register long r8 __asm__("r8") = e;
	long result;
	__asm__ volatile("syscall" : "=a"(result) : "a"(number), "D"(a), "S"(b), "d"(c), "r"(r10), "r"(r8) : "rcx", "r11", "memory");
	return result;
}
__asm__(".globl _start\n_start: mov %rsp, %rdi\n and $-16, %rsp\n call begin\n");
#elif defined(__aarch64__)
enum {
	SYS_fcntl = 25, SYS_mount = 40, SYS_faccessat = 48, SYS_openat = 56, SYS_close = 57, SYS_read = 63, SYS_write = 64,
	SYS_readlinkat = 78, SYS_exit = 94, SYS_ptrace = 117, SYS_keyctl = 219, SYS_wait4 = 260
};
static long call(long number, long a, long b, long c, long d, long e)
{
	register long x8 __asm__("x8") = number;
	register long x0 __asm__("x0") = a;
	register long x1 __asm__("x1") = b;
	register long x2 __asm__("x2") = c;
	register long x3 __asm__("x3") = d;
	register long x4 __asm__("x4") = e;
	__asm__ volatile("svc 0" : "+r"(x0) : "r"(x8), "r"(x1), "r"(x2), "r"(x3), "r"(x4) : "memory");
	return x0;
}
__asm__(".globl _start\n_start: mov x0, sp\n bl begin\n");
#endif

static void say(const char *word, const char *path)
{
	char line[640];
	long n = 0;
	while (*word)
		line[n++] = *word++;
	line[n++] = ' ';
	while (*path && n < 630)
		line[n++] = *path++;
	line[n++] = '\n';
	call(SYS_write, 1, (long)line, n, 0, 0);
}

/* Writes "PREFIX NUMBER SUFFIX" into `text` and returns it. */
static char *join(char *text, const char *prefix, long number, const char *suffix)
{
	char digits[24], *out = text;
	int n = 0;
	while (*prefix)
		*out++ = *prefix++;
	do
		digits[n++] = '0' + number % 10;
	while (number /= 10);
	while (n)
		*out++ = digits[--n];
	while (*suffix)
		*out++ = *suffix++;
	*out = 0;
	return text;
}

static int is(const char *a, const char *b)
{
	while (*a && *a == *b)
		a++, b++;
	return *a == *b;
}
