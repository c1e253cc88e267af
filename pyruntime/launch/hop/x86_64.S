# The hop for x86-64: a machine that performs the system calls of a tape, and the call that gives birth to it.
#
# See launch/tape.py for the rows of a tape, and launch/exeseal.py, which holds these bytes. Without a libc, a loader or
# a stack: an image can't hand it a library.

    .intel_syntax noprefix
    .globl _start
_start:
    mov  ebx, 0x500000              # the tape: its head, and then its rows
    lea  rbp, [rbx + 32]
row:
    mov  eax, [rbp]                 # the number; the other half of the word is the row's mark
    mov  rdi, [rbp + 8]
    mov  rsi, [rbp + 16]
    mov  rdx, [rbp + 24]
    mov  r10, [rbp + 32]
    mov  r8,  [rbp + 40]
    mov  r9,  [rbp + 48]
    syscall
    cmp  rax, -4095                 # -errno
    jae  3f
    mov  rcx, [rbp + 56]            # where the result is wanted, a descriptor or a pid
    jrcxz 1f
    mov  [rcx], eax
1:  mov  rcx, [rbp + 80]            # the next row after 0
    test rax, rax
    jz   2f
    mov  rcx, [rbp + 88]            # after more
2:  mov  rbp, rcx
    jmp  row
3:  mov  rcx, [rbp + 72]            # the next row after the errno that is expected
    cmp  rax, [rbp + 64]
    je   2b
    mov  [rbx + 12], eax            # report it, with the row's number and mark
    mov  rax, [rbp]
    mov  [rbx + 16], rax
    mov  rdi, [rbx]
    lea  rsi, [rbx + 8]
    push 16
    pop  rdx
    push 1                          # write
    pop  rax
    syscall
    push 1
    pop  rdi
    push 60                         # exit
    pop  rax
    syscall
    ud2                             # a filter forbids even that
spawn:                              # for the runtime, which maps this file: int spawn(clone_args, size, execution)
    mov  r9, rdx
    mov  eax, 435                   # clone3, with CLONE_VFORK: the caller sleeps until the execve, its stack is safe
    syscall
    test eax, eax
    jnz  4f
    mov  rdi, [r9]
    mov  rsi, [r9 + 8]
    mov  rdx, [r9 + 16]
    mov  r10, [r9 + 24]
    mov  r8,  [r9 + 32]
    mov  eax, 322                   # execveat
    syscall
    mov  [r9 + 40], rax             # -errno, where the caller finds it
    push 1
    pop  rdi
    push 60                         # exit
    pop  rax
    syscall
4:  ret
