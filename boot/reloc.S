# The relocation code: obeys the entry list of a kimage when nothing of the outgoing hypervisor runs any more, and jumps
# into the incoming image. One page, position independent, Intel syntax; it is copied to a frame of its own, outside of
# slot and region, and runs there. src/kexec/kimage.rs has the list, src/kexec/simulate.rs the same loop in Rust.
#
# Called in long mode, ring 0, interrupts off, direction flag clear, at the copy's alias in the caller's page tables,
# where the copy can be read, written and executed. The relocation tables map the copy twice, readable, writable and
# executable: at that same alias, for the instruction behind the change of tables, and at its machine address. At their
# machine addresses they map as well the list pages, all sources and destinations, and the breadcrumb page.
#
#   in  rdi  machine address of the copy, page aligned, below 4 GiB
#       rsi  machine address of the relocation tables' L4
#       rdx  machine address of the first list page
#       rcx  physical entry of the image, below 4 GiB
#       r8   machine address of the Multiboot2 information, below 4 GiB
#       r9   0 jump into the image; 1 self-test: return to the caller
#       r10  machine address of the breadcrumb page for two time stamps, or 0 for none
#
#   out, r9 = 0: 32-bit protected mode as Multiboot2 3.3 wants it: eax 0x36d76289, ebx = r8, flat segments, paging,
#       interrupts, CR4 and EFER off. The GDT is the one in this page.
#   out, r9 = 1: rax = entries read, the DONE included. CR0, CR3, CR4, DR7, IDTR, rsp and the registers that the System V
#       ABI preserves are as they were. The other general registers and the flags are lost; GDTR and segments are not
#       touched.
#
#   r10: at the end of the list the TSC of the entry into this code is stored at [r10 + 16], that of the list's end at
#       [r10 + 24]: both then, so that no entry can overwrite the first.
#
# Inside, from the identity address on: rbx next entry, rdi destination, rbp image entry, r8 MBI, r9 mode, r10 stamps,
# r11 first stamp, r12 entries read, r13 machine address of this page, r14 its alias.

    .section .text.reloc, "ax", @progbits
    .balign 64
    .global reloc_start
    .global reloc_end
    # Where a debugger finds image and breadcrumb in place, and nothing of the image has run.
    .global reloc_leave
    .code64

reloc_start:
    # What a self-test gives back. Cheap enough to be done in any case.
    mov     [rip + .Lreloc_rbx], rbx
    mov     [rip + .Lreloc_rbp], rbp
    mov     [rip + .Lreloc_rsp], rsp
    mov     [rip + .Lreloc_r12], r12
    mov     [rip + .Lreloc_r13], r13
    mov     [rip + .Lreloc_r14], r14
    mov     rax, cr0
    mov     [rip + .Lreloc_cr0], rax
    mov     rax, cr3
    mov     [rip + .Lreloc_cr3], rax
    mov     rax, cr4
    mov     [rip + .Lreloc_cr4], rax
    mov     rax, dr7
    mov     [rip + .Lreloc_dr7], rax
    sidt    [rip + .Lreloc_idtr]

    mov     rbx, rdx
    mov     ebp, ecx
    rdtsc
    shl     rdx, 32
    lea     r11, [rdx + rax]
    xor     r12d, r12d
    mov     r13, rdi
    lea     r14, [rip + reloc_start]

    # From here on an exception is a triple fault, and so a reset, rather than a run through code that is being
    # overwritten.
    lidt    [rip + .Lreloc_no_idt]
    # A guest's breakpoints are on addresses that mean something else from here on.
    xor     eax, eax
    mov     dr7, rax
    # PCIDs, global pages, SMEP, SMAP, CET off: nothing of the caller's tables stays in the TLB, and the copy may be
    # anywhere.
    mov     eax, 0x20
    mov     cr4, rax

    # Over to the relocation tables, a stack at the end of this page, and the machine address.
    lea     rax, [rip + .Lreloc_identity]
    sub     rax, r14
    add     rax, r13
    lea     rsp, [r13 + 4096]
    mov     cr3, rsi
    jmp     rax

.Lreloc_identity:
    # AM, WP, TS, EM off; PG, PE on.
    mov     rax, cr0
    and     eax, 0xfffafff3
    or      eax, 0x80000001
    mov     cr0, rax

    cld
    xor     edi, edi

.Lreloc_next:
    mov     rax, [rbx]
    add     rbx, 8
    inc     r12
    mov     rsi, rax
    and     rsi, -4096
    test    al, 0x8
    jnz     .Lreloc_source
    test    al, 0x10
    jnz     .Lreloc_zero
    test    al, 0x1
    jnz     .Lreloc_destination
    test    al, 0x2
    jnz     .Lreloc_indirection
    test    al, 0x20
    jnz     .Lreloc_write64
    test    al, 0x4
    jz      .Lreloc_next
    jmp     .Lreloc_done

.Lreloc_source:
    mov     ecx, 512
    rep     movsq
    jmp     .Lreloc_next

.Lreloc_zero:
    mov     ecx, 512
    xor     eax, eax
    rep     stosq
    jmp     .Lreloc_next

.Lreloc_destination:
    mov     rdi, rsi
    jmp     .Lreloc_next

.Lreloc_indirection:
    mov     rbx, rsi
    jmp     .Lreloc_next

.Lreloc_write64:
    mov     rax, rsi
    stosq
    jmp     .Lreloc_next

.Lreloc_done:
    test    r10, r10
    jz      reloc_leave
    rdtsc
    shl     rdx, 32
    or      rax, rdx
    mov     [r10 + 16], r11
    mov     [r10 + 24], rax

reloc_leave:
    test    r9d, 1
    jnz     .Lreloc_return

    # Into the image: a GDT of this page, compatibility mode, then paging and long mode off.
    mov     ebx, r8d
    lea     rax, [rip + .Lreloc_gdt]
    mov     [rip + .Lreloc_gdtr + 2], rax
    lgdt    [rip + .Lreloc_gdtr]
    lea     rax, [rip + .Lreloc_32]
    push    0x10
    push    rax
    retfq

    .code32
.Lreloc_32:
    mov     eax, 0x08
    mov     ds, eax
    mov     es, eax
    mov     fs, eax
    mov     gs, eax
    mov     ss, eax
    mov     eax, cr0
    and     eax, 0x7fffffff
    mov     cr0, eax
    # EFER as a boot loader leaves it: an image that sets only LME must not find SCE or NXE of ours.
    mov     ecx, 0xc0000080
    xor     eax, eax
    xor     edx, edx
    wrmsr
    mov     cr4, eax
    mov     eax, 0x36d76289
    jmp     ebp
    .code64

.Lreloc_return:
    # Back to the alias, the caller's tables do not map the machine address.
    lea     rax, [rip + .Lreloc_alias]
    sub     rax, r13
    add     rax, r14
    jmp     rax

.Lreloc_alias:
    # CR4.PCIDE can be set only while CR3 names PCID 0, and CR4.CET only while CR0.WP is set.
    mov     rdx, [rip + .Lreloc_cr3]
    mov     rax, rdx
    and     rax, -4096
    mov     cr3, rax
    mov     rax, [rip + .Lreloc_cr0]
    mov     cr0, rax
    mov     rax, [rip + .Lreloc_cr4]
    mov     cr4, rax
    mov     cr3, rdx
    mov     rax, [rip + .Lreloc_dr7]
    mov     dr7, rax
    lidt    [rip + .Lreloc_idtr]
    mov     rax, r12
    mov     rbx, [rip + .Lreloc_rbx]
    mov     rbp, [rip + .Lreloc_rbp]
    mov     rsp, [rip + .Lreloc_rsp]
    mov     r12, [rip + .Lreloc_r12]
    mov     r13, [rip + .Lreloc_r13]
    mov     r14, [rip + .Lreloc_r14]
    ret

    .balign 8
.Lreloc_gdt:
    .quad   0
    # 0x08: data, base 0, limit 4 GiB, writable. 0x10: code of the same extent, 32-bit, readable.
    .quad   0x00cf93000000ffff
    .quad   0x00cf9b000000ffff
    # The base is filled in when the place is known.
.Lreloc_gdtr:
    .word   23
    .quad   0
    .balign 8
.Lreloc_no_idt:
    .word   0
    .quad   0
    .balign 8
.Lreloc_idtr:
    .word   0
    .quad   0
    .balign 8
.Lreloc_rbx:
    .quad   0
.Lreloc_rbp:
    .quad   0
.Lreloc_rsp:
    .quad   0
.Lreloc_r12:
    .quad   0
.Lreloc_r13:
    .quad   0
.Lreloc_r14:
    .quad   0
.Lreloc_cr0:
    .quad   0
.Lreloc_cr3:
    .quad   0
.Lreloc_cr4:
    .quad   0
.Lreloc_dr7:
    .quad   0

    # The rest of the page is the stack. Code that has become too large for a page does not assemble.
    .org    reloc_start + 4096
reloc_end:
    .code64
    .text
