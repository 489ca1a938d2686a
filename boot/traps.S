# Entries into the hypervisor and the way back into a guest.
#
# Every entry builds the same frame (x86::traps::Frame), lowest address first:
#   r15 r14 r13 r12 rbp rbx r11 r10 r9 r8 rax rcx rdx rsi rdi  vector error  rip cs rflags rsp ss
# From ring 3 the frame stands at the very top of the CPU's stack, and GS has been swapped to the CPU's own block:
#   gs:[0] top of the stack, gs:[8] scratch for the guest's rsp.
# Interrupts are off from entry to return.

.set FRAME_VECTOR, 120
.set FRAME_RIP, 136
.set FRAME_CS, 144
.set FRAME_SIZE, 176
.set FRAME_WORDS_SAVED, 17             # registers, vector, error
.set VECTOR_SYSCALL, 256
.set VECTOR_SYSCALL32, 257
.set SEL_GUEST_CS32, 0xe023
.set SEL_GUEST_CS64, 0xe033
.set SEL_GUEST_SS, 0xe02b

.section .text.traps, "ax"

.macro push_registers
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
.endm

.macro pop_registers
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
.endm

# One stub of 16 bytes for each vector: an error code (0 where the CPU pushes none), then the vector.
.balign 16
.globl trap_stubs
trap_stubs:
.set vector, 0
.rept 256
    .balign 16
    .if (vector == 8) || (vector == 10) || (vector == 11) || (vector == 12) || (vector == 13) || (vector == 14) || (vector == 17) || (vector == 21) || (vector == 29) || (vector == 30)
    .else
    push 0
    .endif
    .if vector < 128
    push vector
    .else
    push vector - 256                   # sign-extended by the CPU; the Rust side takes the low byte
    .endif
    .if (vector == 2) || (vector == 8) || (vector == 18)
    jmp trap_paranoid
    .elseif vector == 1
    jmp trap_debug
    .else
    jmp trap_common
    .endif
    .set vector, vector + 1
.endr

.balign 16
trap_common:
    push_registers
    cld
    test byte ptr [rsp + FRAME_CS], 3
    jz 1f
    swapgs
    xor ebp, ebp
    mov rdi, rsp
    call trap_from_guest
    jmp return_to_guest
1:  lea rax, [rip + guest_iretq]
    cmp [rsp + FRAME_RIP], rax
    je 2f
    mov rdi, rsp
    call trap_from_hypervisor
    pop_registers
    add rsp, 16
    iretq
    # The guest's own return frame was bad: GS is the guest's already. The CPU pushed its frame below the five words that `iretq` did
    # not load, so the guest's frame is made whole again by moving registers, vector and error up to them, last word first.
2:  swapgs
    mov rax, gs:[0]
    lea rsi, [rsp + (FRAME_WORDS_SAVED - 1) * 8]
    lea rdi, [rax - FRAME_SIZE + (FRAME_WORDS_SAVED - 1) * 8]
    mov ecx, FRAME_WORDS_SAVED
    std
    rep movsq
    cld
    lea rsp, [rax - FRAME_SIZE]
    mov rdi, rsp
    xor ebp, ebp
    call guest_return_failed
    jmp return_to_guest

# NMI, double fault, machine check: on stacks of their own, GS unknown and not used.
.balign 16
trap_paranoid:
    push_registers
    cld
    mov rdi, rsp
    call trap_paranoid_entry
    pop_registers
    add rsp, 16
    iretq

# Debug exceptions, on a stack of their own as well: a guest's breakpoint on what it loads into SS is held back for one instruction, and comes in
# the hypervisor if that is `syscall` or `int3`, where neither stack nor GS are the hypervisor's yet.
.balign 16
trap_debug:
    push_registers
    cld
    test byte ptr [rsp + FRAME_CS], 3
    jz 1f
    swapgs
    mov rax, gs:[0]
    mov rsi, rsp
    lea rdi, [rax - FRAME_SIZE]
    mov ecx, FRAME_SIZE / 8
    rep movsq
    lea rsp, [rax - FRAME_SIZE]
    xor ebp, ebp
    mov rdi, rsp
    call trap_from_guest
    jmp return_to_guest
1:  call trap_debug_in_hypervisor
    pop_registers
    add rsp, 16
    iretq

# `syscall` from ring 3: rcx = return address, r11 = rflags, the guest's rsp untouched.
.macro syscall_frame cs, vector
    swapgs
    mov gs:[8], rsp
    mov rsp, gs:[0]
    push SEL_GUEST_SS
    push gs:[8]
    push r11
    push \cs
    push rcx
    push 0
    push \vector
    push_registers
    cld
    xor ebp, ebp
    mov rdi, rsp
    call trap_from_guest
.endm

# From 32-bit code.
.balign 16
.globl syscall32_entry
syscall32_entry:
    syscall_frame SEL_GUEST_CS32, VECTOR_SYSCALL32
    jmp return_to_guest

# From 64-bit code.
.balign 16
.globl syscall_entry
syscall_entry:
    syscall_frame SEL_GUEST_CS64, VECTOR_SYSCALL
    # falls through

# In: rsp = the guest frame at the top of the CPU's stack. `exit_to_guest` may put another vCPU's registers into it.
.balign 16
.globl return_to_guest
return_to_guest:
    mov rdi, rsp
    call exit_to_guest
    pop_registers
    swapgs
    add rsp, 16
.globl guest_iretq
guest_iretq:
    iretq

# Loads a selector into DS, ES, FS or GS: rdi = which (0 to 3), rsi = selector. A selector that faults becomes 0
# (trap_from_hypervisor moves rip from a `segment_load_*` address to `segment_load_bad`).
.balign 16
.globl load_segment
load_segment:
    mov eax, esi
    cmp edi, 1
    jb 1f
    je 2f
    cmp edi, 3
    jb 3f
.globl segment_load_gs
segment_load_gs:
    mov gs, eax
    ret
.globl segment_load_ds
segment_load_ds:
1:  mov ds, eax
    ret
.globl segment_load_es
segment_load_es:
2:  mov es, eax
    ret
.globl segment_load_fs
segment_load_fs:
3:  mov fs, eax
    ret
.globl segment_load_bad
segment_load_bad:
    xor esi, esi
    jmp load_segment
