// The last hop before the user's program, for AArch64. See x86_64.S, which it follows line by line.

    .globl _start
_start:
    ldr  x19, [sp, #8]              // argv[0]: the program
    add  x20, sp, #16               // argv[1:]: its arguments
    ldr  x0, [sp]                   // argc
    add  x21, x20, x0, lsl #3       // envp
    mov  x0, #4                     // PR_SET_DUMPABLE
    mov  x1, #0
    mov  x8, #167                   // prctl
    svc  #0
    adr  x9, listen
    ldr  w22, [x9]
    ldr  w23, [x9, #4]
    tbnz w22, #31, 1f
0:  mov  w0, w22
    mov  x1, #0
    mov  x2, #0
    mov  w3, #0x80000               // SOCK_CLOEXEC
    mov  x8, #242                   // accept4
    svc  #0
    cmn  w0, #4                     // EINTR
    b.eq 0b
    mov  w23, w0
    mov  w0, w22
    bl   cloexec
1:  mov  w0, w23
    bl   cloexec
    tbnz w0, #31, 2f                // no report: see x86_64.S
    ldr  w22, enter
    cbnz w22, enters
6:  adr  x2, program
    ldr  w3, [x2]
    cbz  w3, 3f                     // no seccomp filter
    ldr  w1, flags
    mov  x0, #1                     // SECCOMP_SET_MODE_FILTER
    mov  x8, #277                   // seccomp
    svc  #0
    cbz  x0, 3f
    sub  x0, x0, #0x10, lsl #12     // see x86_64.S
    b    4f
3:  mov  x0, x19
    mov  x1, x20
    mov  x2, x21
    mov  x8, #221                   // execve
    svc  #0
4:  str  x0, [sp, #-16]!            // -errno
    mov  w0, w23
    mov  x1, sp
    mov  x2, #4
    mov  x8, #64                    // write
    svc  #0
2:  mov  x0, #1
    mov  x8, #93                    // exit
    svc  #0
    brk  #0
enters:
    mov  x0, #0x8011                // CLONE_PARENT|SIGCHLD
    mov  x1, #0
    mov  x2, #0
    mov  x3, #0
    mov  x4, #0
    mov  x8, #220                   // clone
    svc  #0
    cbz  x0, 7f
    tbz  x0, #63, 4b
    sub  x0, x0, #0x40, lsl #12
    b    4b
7:  mov  x8, #157                   // setsid
    svc  #0
    tbz  w22, #31, 8f
    mov  x0, #0
    mov  x1, #0x540e                // TIOCSCTTY
    mov  x2, #0
    mov  x8, #29                    // ioctl
    svc  #0
    cbz  x0, 8f
    sub  x0, x0, #0x80, lsl #12
    b    4b
8:  mov  w0, w23
    sub  sp, sp, #16
    mov  x1, sp
    mov  x2, #8
    mov  x8, #63                    // read
    svc  #0
    cmp  w0, #0
    b.gt 6b
    b.eq 2b
    sub  x0, x0, #0x100, lsl #12
    b    4b
cloexec:
    mov  x1, #2                     // F_SETFD
    mov  x2, #1                     // FD_CLOEXEC
    mov  x8, #25                    // fcntl
    svc  #0
    ret
listen: .word -1
report: .word -1
enter:  .word 0
flags:  .word 0
program: .quad 0, 0
