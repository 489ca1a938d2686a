//! First instructions, trap entries, the way back, and the ELF notes.
//!
//! At start (XEN.md §5.4): rsi = start_info, rsp = end of the boot stack, long mode in ring 3, events masked.
//!
//! A trap comes with this frame on the stack, lowest address first: rcx, r11, the error code if the vector has one, rip,
//! cs (low 16 bits; bits 39:32 = the upcall mask before), rflags, rsp, ss. The entries below bring it into the form of
//! [`super::traps::Frame`]: the error code (0 if there is none) stays where it is, the vector and all 15 registers
//! follow. On the way back the error code's place holds the flags word of the iret hypercall, whose frame is rax, r11,
//! rcx, flags, rip, cs, rflags, rsp, ss. Through the hypercall page, the page itself pushes rcx, r11 and rax.

use core::arch::global_asm;

global_asm!(
    r#"
    .pushsection .text.start, "ax", @progbits
    .globl _start
_start:
    cld
    mov rdi, rsi
    mov rsi, rsp
    lea rsp, [rip + guest_stack_end]
    xor ebp, ebp
    call guest_main
    ud2

    .macro trap vector, has_error
trap_\vector:
    pop rcx
    pop r11
    .if \has_error == 0
    push 0
    .endif
    push \vector
    jmp save
    .endm

    trap 0, 0
    trap 1, 0
    trap 2, 0
    trap 3, 0
    trap 4, 0
    trap 5, 0
    trap 6, 0
    trap 7, 0
    trap 8, 1
    trap 10, 1
    trap 11, 1
    trap 12, 1
    trap 13, 1
    trap 14, 1
    trap 16, 0
    trap 17, 1
    trap 18, 0
    trap 19, 0

    # The callbacks have no vector of their own; these numbers are above every vector.
    .globl guest_event_entry
guest_event_entry:
    pop rcx
    pop r11
    push 0
    push 0x100
    jmp save

    .globl guest_syscall_entry
guest_syscall_entry:
    pop rcx
    pop r11
    push 0
    push 0x101
    jmp save

    # The failsafe frame has ds, es, fs, gs above rcx and r11. It is fatal, so they are dropped.
    .globl guest_failsafe_entry
guest_failsafe_entry:
    pop rcx
    pop r11
    add rsp, 32
    push 0
    push 0x102

save:
    push rdi
    push rsi
    push rdx
    push rcx
    push rax
    push r8
    push r9
    push r10
    push r11
    push rbx
    push rbp
    push r12
    push r13
    push r14
    push r15
    cld
    mov rdi, rsp
    call guest_trap
    pop r15
    pop r14
    pop r13
    pop r12
    pop rbp
    pop rbx
    pop r11
    pop r10
    pop r9
    pop r8
    pop rax
    pop rcx
    pop rdx
    pop rsi
    pop rdi
    add rsp, 8

    # In: rsp -> flags, rip, cs, rflags, rsp, ss; all registers as they are to be. rflags are free, the frame has them.
    .globl guest_iret
guest_iret:
    cmp qword ptr [rip + guest_hypercall_page], 0
    jne 1f
    push rcx
    push r11
    push rax
    mov eax, 23
    syscall
    ud2
1:  jmp qword ptr [rip + iret_in_page]

    # guest_probe_read(rdi = address) -> rax = value, rdx = 0, or rdx = 1 when it faulted.
    .globl guest_probe_read
guest_probe_read:
    xor edx, edx
    .globl guest_probe_read_at
guest_probe_read_at:
    mov rax, [rdi]
    ret

    # guest_probe_write(rdi = address, rsi = value) -> rdx likewise.
    .globl guest_probe_write
guest_probe_write:
    xor edx, edx
    .globl guest_probe_write_at
guest_probe_write_at:
    mov [rdi], rsi
    ret

    .globl guest_probe_faulted
guest_probe_faulted:
    mov edx, 1
    ret
    .popsection

    .pushsection .rodata.guest, "a", @progbits
    .balign 8
    .weak hypercall_page
    .globl guest_hypercall_page
guest_hypercall_page:
    .quad hypercall_page
iret_in_page:
    .quad hypercall_page + 23 * 32
    # vector, entry; address 0 ends it.
    .globl guest_trap_entries
guest_trap_entries:
    .quad 0, trap_0, 1, trap_1, 2, trap_2, 3, trap_3, 4, trap_4, 5, trap_5, 6, trap_6, 7, trap_7, 8, trap_8
    .quad 10, trap_10, 11, trap_11, 12, trap_12, 13, trap_13, 14, trap_14, 16, trap_16, 17, trap_17
    .quad 18, trap_18, 19, trap_19, 0, 0
    .popsection

    .pushsection .bss.guest_stack, "aw", @nobits
    .balign 4096
    .skip 65536
guest_stack_end:
    .popsection

    .macro note type, size
    .balign 4
    .long 4, \size, \type
    .asciz "Xen"
    .endm

    .pushsection .note.Xen, "a", @note
    note 1, 8                       # ENTRY
    .quad _start
    note 3, 8                       # VIRT_BASE
    .quad 0xffffffff80000000
    note 4, 8                       # PADDR_OFFSET
    .quad 0
    note 5, 8                       # XEN_VERSION
    .asciz "xen-3.0"
    note 6, 12                      # GUEST_OS
    .asciz "luxen-guest"
    note 8, 8                       # LOADER
    .asciz "generic"
    note 10, 20                     # FEATURES
    .asciz "pae_pgdir_above_4gb"
    .balign 4
    .popsection
    "#
);
