# What a labelled hop does first, for x86-64: it asks for its label at the next execve. See launch/labels.py.
#
# Only the process itself may ask, and only through a file that it has opened since its last execve (proc_pid_attr_write
# of the kernel), so that the child before the hop cannot do it for the hop.

    .intel_syntax noprefix
    .globl _start
_start:
    mov  edi, [rip + directory]
    lea  rsi, [rip + name]
    push 1                          # O_WRONLY
    pop  rdx
    mov  eax, 257                   # openat
    syscall
    test eax, eax
    js   9f
    mov  ebx, eax
    mov  edi, eax
    lea  rsi, [rip + text]
    mov  edx, [rip + length]
    push 1                          # write
    pop  rax
    syscall
    test eax, eax
    js   9f
    mov  edi, ebx
    call close
    mov  edi, [rip + directory]
    call close
    mov  edi, [rip + done]          # `create`: its end tells the parent that all is well
    test edi, edi
    js   1f
    call close
1:  mov  eax, 0x400078              # the hop itself
    jmp  rax
9:  sub  rax, 0x20000               # so that the report says whose errno it is
    push rax
    mov  edi, [rip + report]
    mov  rsi, rsp
    push 4
    pop  rdx
    push 1                          # write
    pop  rax
    syscall
    push 1
    pop  rdi
    push 60                         # exit
    pop  rax
    syscall
close:
    push 3                          # close
    pop  rax
    syscall
    ret
directory: .long -1                 # all of these are filled in by labels.py
report: .long -1
done:   .long -1
length: .long 0
name:   .asciz "exec"
text:
