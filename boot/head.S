# Entry of the image: from a Multiboot loader, or from the relocation code of another build of this hypervisor.
#
# Machine state at entry (Multiboot2 specification, 3.3): 32-bit protected mode, flat segments, paging off, interrupts off,
#   eax = 0x36d76289 (Multiboot2) or 0x2badb002 (Multiboot1), ebx = information structure, no stack.
# Machine state left to `luxen_start`: long mode, paging on, rsp = boot stack of CPU 0, interrupts off,
#   rdi = magic, rsi = machine address of the information structure, rdx = machine address of the image;
#   L4 slot 0 and slot 262 (the direct map) both map [0, 4 GiB), slot 261 maps the image at its link address.
#
# Nothing here may use an absolute address: the image stands wherever the loader put it, ebp/rbp holds that place, and linker.ld
# gives the distance of each symbol from there as `<symbol>_at`.

.set MB2_MAGIC, 0xe85250d6
.set MB1_MAGIC, 0x1badb002
.set MB1_FLAGS, 0x00010003              # page-aligned modules, memory map, address fields valid
.set SLOT_ALIGN, 0x200000

.set PTE_P, 0x001
.set PTE_RW, 0x002
.set PTE_PS, 0x080
.set PTE_AD, 0x060

.set SEL_CODE32, 0x08
.set SEL_DATA32, 0x10
.set SEL_CODE64, 0x18

.section .head.multiboot, "a"
.balign 8
mb2_header:
    .long MB2_MAGIC
    .long 0                             # i386 protected mode
    .long mb2_header_end - mb2_header
    .long -(MB2_MAGIC + (mb2_header_end - mb2_header))

    .balign 8                           # entry address: machine address as linked; the loader adds its displacement
    .short 3
    .short 0
    .long 12
    .long mb1_entry_lma

    .balign 8                           # modules start on frame borders
    .short 6
    .short 0
    .long 8

    .balign 8                           # relocatable: [1 MiB, 4 GiB), 2 MiB aligned, as high as possible
    .short 10
    .short 0
    .long 24
    .long 0x00100000
    .long 0xffffffff
    .long SLOT_ALIGN
    .long 2

    .balign 8                           # end
    .short 0
    .short 0
    .long 8
mb2_header_end:

.balign 4
.globl mb1_header
mb1_header:
    .long MB1_MAGIC
    .long MB1_FLAGS
    .long -(MB1_MAGIC + MB1_FLAGS)
    .long mb1_header_lma
    .long mb1_load_lma
    .long mb1_file_end_lma
    .long mb1_slot_end_lma
    .long mb1_entry_lma

.section .head.text, "ax"
.code32
.globl head_entry32
head_entry32:
    cld
    cli
    # Where are we? The one word of stack that the call needs is the reserved (Multiboot2) or long since obsolete (Multiboot1)
    # second word of the information structure.
    lea esp, [ebx + 8]
    call head_where
.globl head_where
head_where:
    pop ebp
    sub ebp, offset head_where_at
    mov edi, eax                        # magic

    # One table of level 3 for [0, 4 GiB), which serves slot 0 and the direct map.
    lea eax, [ebp + head_l2_low_at + PTE_P + PTE_RW]
    lea edx, [ebp + head_l3_low_at]
    mov ecx, 4
2:  mov [edx], eax
    add eax, 0x1000
    add edx, 8
    loop 2b

    lea edx, [ebp + head_l2_low_at]
    mov eax, PTE_P + PTE_RW + PTE_PS + PTE_AD
    mov ecx, 2048
3:  mov [edx], eax
    add eax, 0x200000
    add edx, 8
    loop 3b

    # The image at its link address: L4 slot 261, L3 entry 321, L2 entries 0 and 1.
    lea eax, [ebp + PTE_P + PTE_RW + PTE_PS + PTE_AD]
    mov [ebp + head_l2_image_at], eax
    add eax, 0x200000
    mov [ebp + head_l2_image_at + 8], eax
    lea eax, [ebp + head_l2_image_at + PTE_P + PTE_RW]
    mov [ebp + head_l3_image_at + 321*8], eax

    lea eax, [ebp + head_l3_low_at + PTE_P + PTE_RW]
    mov [ebp + head_l4_at], eax
    mov [ebp + head_l4_at + 262*8], eax
    lea eax, [ebp + head_l3_image_at + PTE_P + PTE_RW]
    mov [ebp + head_l4_at + 261*8], eax

    mov eax, 0x20                       # CR4.PAE alone
    mov cr4, eax
    lea eax, [ebp + head_l4_at]
    mov cr3, eax
    mov ecx, 0xc0000080                 # EFER: LME, NXE, SCE
    rdmsr
    or eax, 0x901
    wrmsr
    mov eax, 0x80010011                 # CR0: PG, WP, ET, PE
    mov cr0, eax

    # Into 64-bit code, still at the machine address.
    lea eax, [ebp + head_gdt_at]
    mov [ebp + head_gdtr_at + 2], eax
    lgdt [ebp + head_gdtr_at]
    lea eax, [ebp + head_entry64_at]
    lea esp, [ebp + head_far_at + 8]
    push SEL_CODE64
    push eax
    retf

.code64
.globl head_entry64
head_entry64:
    mov eax, SEL_DATA32
    mov ss, eax
    mov ds, eax
    mov es, eax
    xor eax, eax
    mov fs, eax
    mov gs, eax
    mov edi, edi                        # magic
    mov esi, ebx                        # information structure
    mov edx, ebp                        # image
    movabs rax, offset head_high
    jmp rax
head_high:
    lea rsp, [rip + boot_stack_top]
    xor ebp, ebp
    call luxen_start
    ud2

.section .data.head, "aw"
.balign 8
.globl head_gdt
head_gdt:
    .quad 0
    .quad 0x00cf9b000000ffff            # 0x08: 32-bit code
    .quad 0x00cf93000000ffff            # 0x10: data
    .quad 0x00af9b000000ffff            # 0x18: 64-bit code
.globl head_gdtr
head_gdtr:
    .short head_gdtr - head_gdt - 1
    .long 0
    .balign 8
.globl head_far
head_far:
    .quad 0

.section .bss.head, "aw", @nobits
.balign 0x1000
.globl head_l4
head_l4: .skip 0x1000
.globl head_l3_low
head_l3_low: .skip 0x1000
.globl head_l2_low
head_l2_low: .skip 0x4000
.globl head_l3_image
head_l3_image: .skip 0x1000
.globl head_l2_image
head_l2_image: .skip 0x1000
.globl boot_stack
boot_stack: .skip 0x30000
.globl boot_stack_top
boot_stack_top:
