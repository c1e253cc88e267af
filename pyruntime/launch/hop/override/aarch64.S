// What the hop of a user with CAP_DAC_OVERRIDE does first, for AArch64. See x86_64.S beside this file.

    .globl _start
_start:
    adr  x0, header
    adr  x1, first
    mov  x8, #91                    // capset
    svc  #0
    cbnz x0, 9f
    adr  x0, header
    adr  x1, second
    mov  x8, #91                    // capset
    svc  #0
    cbz  x0, next
9:  mov  x0, #1                     // a filter that was loaded before forbids it
    mov  x8, #93                    // exit
    svc  #0
header: .word 0x20080522, 0         // _LINUX_CAPABILITY_VERSION_3, this process
first:  .space 24                   // two struct __user_cap_data_struct, filled in by exeseal.py
second: .space 24
next:
    mov  x9, #0x78                  // the hop itself
    movk x9, #0x40, lsl #16
    br   x9
