// Frames of x64 that compilers rarely make.
    .intel_syntax noprefix
    .text

    .macro FUNCTION name
    .p2align 4, 0xCC
    .globl \name
    .def \name; .scl 2; .type 32; .endef
\name:
    .endm

// The stack probe: rax bytes will be allocated.
    FUNCTION __chkstk
    push rcx
    push rax
    pop rax
    pop rcx
    ret

// Chained unwind data: two parts that save more.
    FUNCTION chained // rcx: a number
    .seh_proc chained
    push rbp
    .seh_pushreg rbp
    sub rsp, 0x50
    .seh_stackalloc 0x50
    .seh_endprologue
    mov ebp, 5
    test rcx, rcx
    je 1f
    .seh_startchained
    mov [rsp+0x40], rbx
    .seh_savereg rbx, 0x40
    mov [rsp+0x38], rsi
    .seh_savereg rsi, 0x38
    .seh_endprologue
    mov ebx, 6
    mov esi, 7
    cmp rcx, 2
    jne 2f
    .seh_startchained
    mov [rsp+0x48], r15
    .seh_savereg r15, 0x48
    movaps [rsp+0x20], xmm9
    .seh_savexmm xmm9, 0x20
    .seh_endprologue
    mov r15d, 8
    pxor xmm9, xmm9
    call asmleaf
    movaps xmm9, [rsp+0x20]
    mov r15, [rsp+0x48]
    .seh_endchained
2:  mov rsi, [rsp+0x38]
    mov rbx, [rsp+0x40]
    .seh_endchained
1:  add rsp, 0x50
    pop rbp
    ret
    .seh_endproc

    FUNCTION asmleaf
    lea rax, [rcx*2+1]
    ret

// A frame register with an offset, saves far away and in vector registers, a
// return that pops.
    FUNCTION far
    .seh_proc far
    push r13
    .seh_pushreg r13
    push rdi
    .seh_pushreg rdi
    sub rsp, 0x100028
    .seh_stackalloc 0x100028
    lea r13, [rsp+0x80]
    .seh_setframe r13, 0x80
    movaps [rsp+0x100000], xmm12
    .seh_savexmm xmm12, 0x100000
    movaps [rsp+0x30], xmm6
    .seh_savexmm xmm6, 0x30
    mov [rsp+0x80008], r14
    .seh_savereg r14, 0x80008
    .seh_endprologue
    sub rsp, 0x40
    mov r14d, 3
    pxor xmm12, xmm12
    pxor xmm6, xmm6
    call asmleaf
    movaps xmm6, [r13+0x30-0x80]
    movaps xmm12, [r13+0x100000-0x80]
    mov r14, [r13+0x80008-0x80]
    lea rsp, [r13+0x100028-0x80]
    pop rdi
    pop r13
    ret 0
    .seh_endproc

// As GCC makes frames: the frame register comes first, and what is saved is told
// from the final stack pointer.
    FUNCTION framefirst
    .seh_proc framefirst
    push rbp
    .seh_pushreg rbp
    mov rbp, rsp
    .seh_setframe rbp, 0
    push rbx
    .seh_pushreg rbx
    sub rsp, 0x58
    .seh_stackalloc 0x58
    movaps [rsp+0x30], xmm6
    .seh_savexmm xmm6, 0x30
    .seh_endprologue
    mov ebx, 1
    pxor xmm6, xmm6
    sub rsp, 0x20
    call asmleaf
    movaps xmm6, [rbp-0x30]
    lea rsp, [rbp-8]
    pop rbx
    pop rbp
    ret
    .seh_endproc

// A frame register that is r12, which needs a SIB byte.
    FUNCTION sib
    .seh_proc sib
    push r12
    .seh_pushreg r12
    sub rsp, 0x30
    .seh_stackalloc 0x30
    lea r12, [rsp+0x10]
    .seh_setframe r12, 0x10
    .seh_endprologue
    push rax
    call asmleaf2
    lea rsp, [r12+0x20]
    pop r12
    rep ret
    .seh_endproc

    FUNCTION asmleaf2
    pushfq
    pop rax
    ret

// Tail calls of every form, and a loop that jumps back to where it began.
    FUNCTION tails // rcx: which
    .seh_proc tails
    push rbx
    .seh_pushreg rbx
    sub rsp, 0x20
    .seh_stackalloc 0x20
    .seh_endprologue
    mov rbx, rcx
    call asmleaf
    lea rax, [rip+asmleaf]
    mov rcx, rbx
    cmp ebx, 1
    je 1f
    cmp ebx, 2
    je 2f
    cmp ebx, 3
    je 3f
    jmp 4f
1:  add rsp, 0x20
    pop rbx
    jmp asmleaf
2:  add rsp, 0x20
    pop rbx
    rex64 jmp rax
3:  add rsp, 0x20
    pop rbx
    jmp [rip+pointer]
4:  xor ecx, ecx
    add rsp, 0x20
    pop rbx
    .byte 0xF2 // bnd
    ret
    .seh_endproc

// A tail call of itself.
    FUNCTION again // rcx: how often
    .seh_proc again
    sub rsp, 0x28
    .seh_stackalloc 0x28
    .seh_endprologue
    test rcx, rcx
    je 1f
    dec rcx
    add rsp, 0x28
    jmp again
1:  call asmleaf
    add rsp, 0x28
    ret
    .seh_endproc

// A jump through a table, in a function without a frame beside its unwind data.
    FUNCTION switch // rcx: 0 or 1
    .seh_proc switch
    push rsi
    .seh_pushreg rsi
    .seh_endprologue
    lea rsi, [rip+cases]
    movsxd rax, dword ptr [rsi+rcx*4]
    add rax, rsi
    jmp rax
case0:
    mov eax, 1
    pop rsi
    ret
case1:
    mov eax, 2
    push rax
    push rcx
    pop rcx
    add rsp, 8
    pop rsi
    ret
    .seh_endproc

// As a handler of interrupts, with an error code: entered by a pushed frame.
    FUNCTION trap
    .seh_proc trap
    .seh_pushframe @code
    push rbp
    .seh_pushreg rbp
    sub rsp, 0x50
    .seh_stackalloc 0x50
    lea rbp, [rsp+0x20]
    .seh_setframe rbp, 0x20
    .seh_endprologue
    mov rcx, 4
    call asmleaf
    lea rsp, [rbp+0x30]
    pop rbp
    add rsp, 8
    iretq
    .seh_endproc

// Calls trap as the processor would.
    FUNCTION interrupted
    .seh_proc interrupted
    push rbx
    .seh_pushreg rbx
    sub rsp, 0x20
    .seh_stackalloc 0x20
    .seh_endprologue
    mov ebx, 9
    int 0x40
    inc ebx
    int 0x41
    add rsp, 0x20
    pop rbx
    ret
    .seh_endproc

    FUNCTION nested
    .seh_proc nested
    .seh_pushframe
    sub rsp, 0x20
    .seh_stackalloc 0x20
    .seh_endprologue
    int 0x40
    add rsp, 0x20
    iretq
    .seh_endproc

    FUNCTION asmentry
    .seh_proc asmentry
    sub rsp, 0x28
    .seh_stackalloc 0x28
    .seh_endprologue
    xor ecx, ecx
    call chained
    mov ecx, 1
    call chained
    mov ecx, 2
    call chained
    call far
    call framefirst
    call sib
    mov ecx, 1
    call tails
    mov ecx, 2
    call tails
    mov ecx, 3
    call tails
    mov ecx, 4
    call tails
    mov ecx, 3
    call again
    xor ecx, ecx
    call switch
    mov ecx, 1
    call switch
    call interrupted
    mov ecx, 5
    call entry
    hlt
    int3
    .seh_endproc

    .section .rdata,"dr"
    .p2align 3
pointer:
    .quad asmleaf
cases:
    .long case0-cases
    .long case1-cases
