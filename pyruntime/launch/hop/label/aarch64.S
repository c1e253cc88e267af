// What a labelled hop does first, for AArch64. See x86_64.S, which it follows line by line.

    .globl _start
_start:
    ldr  w0, directory
    adr  x1, name
    mov  x2, #1                     // O_WRONLY
    mov  x8, #56                    // openat
    svc  #0
    tbnz w0, #31, 9f
    mov  w22, w0
    adr  x1, text
    ldr  w2, length
    mov  x8, #64                    // write
    svc  #0
    tbnz w0, #31, 9f
    mov  w0, w22
    mov  x8, #57                    // close
    svc  #0
    ldr  w0, directory
    svc  #0
    ldr  w0, done                   // see x86_64.S
    tbnz w0, #31, 1f
    svc  #0
1:  movz x9, #0x40, lsl #16         // the hop itself
    movk x9, #0x78
    br   x9
9:  sub  x0, x0, #0x20, lsl #12     // see x86_64.S
    str  x0, [sp, #-16]!
    ldr  w0, report
    mov  x1, sp
    mov  x2, #4
    mov  x8, #64                    // write
    svc  #0
    mov  x0, #1
    mov  x8, #93                    // exit
    svc  #0
directory: .word -1
report: .word -1
done:   .word -1
length: .word 0
name:   .asciz "exec"
text:
