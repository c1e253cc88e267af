# The last hop before the user's program, for x86-64. See launch/exeseal.py, which holds these bytes.
#
# Started with argv = [program, arguments...]. Without a libc, a loader or a stack frame: an image can't hand it a library.

    .intel_syntax noprefix
    .globl _start
_start:
    mov  r12, [rsp + 8]             # argv[0]: the program
    lea  r13, [rsp + 16]            # argv[1:]: its arguments
    mov  rax, [rsp]                 # argc
    lea  r14, [rsp + rax*8 + 16]    # envp
    push 4                          # PR_SET_DUMPABLE: execve has set it again
    pop  rdi
    xor  esi, esi
    mov  eax, 157                   # prctl
    syscall
    mov  ebx, [rip + report]
    mov  ebp, [rip + listen]
    test ebp, ebp
    js   1f                         # `run`: nobody to wait for
0:  mov  edi, ebp                   # `create`: wait until `start` connects
    xor  esi, esi
    xor  edx, edx
    mov  r10d, 0x80000              # SOCK_CLOEXEC
    mov  eax, 288                   # accept4
    syscall
    cmp  eax, -4                    # EINTR
    je   0b
    mov  ebx, eax                   # the connection is what to report to
    mov  edi, ebp
    call cloexec
1:  mov  edi, ebx
    call cloexec
    test eax, eax                   # no report: a script named /proc/self/exe as its interpreter, which we are
    js   2f
    mov  ebp, [rip + enter]
    test ebp, ebp
    jne  enters
6:  lea  rdx, [rip + program]
    cmp  dword ptr [rdx], 0         # no seccomp filter
    je   3f
    mov  esi, [rip + flags]
    push 1                          # SECCOMP_SET_MODE_FILTER
    pop  rdi
    mov  eax, 317                   # seccomp: from here on the filter judges what we do, too
    syscall
    sub  rax, 0x10000               # so that `report` says whose errno it is
    cmp  rax, -0x10000
    jne  4f
3:  mov  rdi, r12
    mov  rsi, r13
    mov  rdx, r14
    push 59                         # execve: its success closes the report, which is the good news
    pop  rax
    syscall
4:  push rax                        # -errno
    mov  edi, ebx
    mov  rsi, rsp
    push 4
    pop  rdx
    push 1                          # write
    pop  rax
    syscall
2:  push 1
    pop  rdi
    push 60                         # exit
    pop  rax
    syscall
    ud2                             # the filter forbids even that
enters:                             # `exec`: a child is what enters the PID namespace that we have joined
    mov  edi, 0x8011                # CLONE_PARENT|SIGCHLD
    xor  esi, esi
    xor  edx, edx
    xor  r10d, r10d
    xor  r8d, r8d
    push 56                         # clone
    pop  rax
    syscall
    test eax, eax
    jg   4b                         # its pid is what we have to report
    je   7f
    sub  rax, 0x40000               # so that the report says what has failed
    jmp  4b
7:  push 112                        # setsid
    pop  rax
    syscall
    test ebp, ebp                   # ENTER_WITH_TERMINAL
    jns  8f
    xor  edi, edi
    mov  esi, 0x540e                # TIOCSCTTY
    xor  edx, edx
    push 16                         # ioctl
    pop  rax
    syscall
    sub  rax, 0x80000
    cmp  rax, -0x80000
    jne  4b
8:  mov  edi, ebx                   # wait for the word to go on: nothing is executed that nobody knows of
    push rax
    mov  rsi, rsp
    push 8
    pop  rdx
    xor  eax, eax                   # read
    syscall
    test eax, eax
    jg   6b
    je   2b                         # the runtime is gone
    sub  rax, 0x100000              # a filter that was loaded before forbids it
    jmp  4b
cloexec:
    push 2                          # F_SETFD
    pop  rsi
    push 1                          # FD_CLOEXEC
    pop  rdx
    push 72                         # fcntl
    pop  rax
    syscall
    ret
listen: .long -1                    # all of these are filled in by exeseal.py
report: .long -1
enter:  .long 0                     # exeseal.ENTER or ENTER_WITH_TERMINAL
flags:  .long 0                     # of seccomp(2)
program: .quad 0, 0                 # a struct sock_fprog: how many instructions, and where
