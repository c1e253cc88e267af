# What the hop of a user with CAP_DAC_OVERRIDE does first, for x86-64. See exeseal.py, `lowering`.
#
# The capabilities came along as ambient ones, so that they help with the execve of the program, too. Taken from the
# inheritable set they are ambient no more, and the program does not get them.

    .intel_syntax noprefix
    .globl _start
_start:
    lea  rdi, [rip + header]
    lea  rsi, [rip + first]
    mov  eax, 126                   # capset
    syscall
    test eax, eax
    jne  9f
    lea  rdi, [rip + header]
    lea  rsi, [rip + second]
    mov  eax, 126                   # capset
    syscall
    test eax, eax
    je   next
9:  push 1                          # a filter that was loaded before forbids it
    pop  rdi
    push 60                         # exit
    pop  rax
    syscall
header: .long 0x20080522, 0         # _LINUX_CAPABILITY_VERSION_3, this process
first:  .space 24                   # two struct __user_cap_data_struct, filled in by exeseal.py
second: .space 24
next:
    mov  eax, 0x400078              # the hop itself
    jmp  rax
