// The parts of the simulated kernel that C cannot say: the entry, the
// interrupt stubs, the context switch and the debugger's services.

#define KTHREAD_KernelStack 0x30
#define TRAP_SIZE 0xC8 // KTRAP_FRAME without what the processor pushes, error code included

    .intel_syntax noprefix
    .text

    .globl KiSystemStartup
    .def KiSystemStartup; .scl 2; .type 32; .endef
    .seh_proc KiSystemStartup
KiSystemStartup: // rcx: loader block, edx: processor
    sub rsp, 0x28
    .seh_stackalloc 0x28
    .seh_endprologue
    call KiInitializeKernel
    call KiIdleLoop
    int3
    .seh_endproc

    .p2align 4, 0xCC
    .globl DbgBreakPoint
    .def DbgBreakPoint; .scl 2; .type 32; .endef
DbgBreakPoint:
    int3
    ret

    .p2align 4, 0xCC
    .globl DbgBreakPointWithStatus
    .globl RtlpBreakWithStatusInstruction
    .def DbgBreakPointWithStatus; .scl 2; .type 32; .endef
DbgBreakPointWithStatus: // ecx: status
RtlpBreakWithStatusInstruction:
    int3
    ret

    .p2align 4, 0xCC
    .globl DebugService
    .def DebugService; .scl 2; .type 32; .endef
DebugService: // ecx: service, rdx, r8, r9, [rsp+28h]: its arguments
    mov eax, ecx
    mov rcx, rdx
    mov rdx, r8
    mov r8, r9
    mov r9, [rsp+0x28]
    int 0x2d
    int3
    ret

    .p2align 4, 0xCC
    .globl KiRaiseAssertionHere
    .def KiRaiseAssertionHere; .scl 2; .type 32; .endef
KiRaiseAssertionHere:
    int 0x2c
    ret

// Copies memory that may not be there: a fault between KiSafeCopyMemory and
// KiSafeCopyEnd is handled by going on at KiSafeCopyFault.
    .p2align 4, 0xCC
    .globl KiSafeCopyMemory, KiSafeCopyEnd, KiSafeCopyFault
    .def KiSafeCopyMemory; .scl 2; .type 32; .endef
KiSafeCopyMemory: // rcx: to, rdx: from, r8: bytes; NTSTATUS
    test r8, r8
    je 2f
1:  mov al, [rdx]
    mov [rcx], al
    inc rdx
    inc rcx
    dec r8
    jne 1b
2:  xor eax, eax
    ret
KiSafeCopyEnd:
KiSafeCopyFault:
    mov eax, 0xC0000005
    ret

    .p2align 4, 0xCC
    .globl KiSwapContext
    .def KiSwapContext; .scl 2; .type 32; .endef
    .seh_proc KiSwapContext
KiSwapContext: // rcx: old KTHREAD, rdx: new KTHREAD
    push rbp
    .seh_pushreg rbp
    push rbx
    .seh_pushreg rbx
    push rdi
    .seh_pushreg rdi
    push rsi
    .seh_pushreg rsi
    push r12
    .seh_pushreg r12
    push r13
    .seh_pushreg r13
    push r14
    .seh_pushreg r14
    push r15
    .seh_pushreg r15
    sub rsp, 0xA8
    .seh_stackalloc 0xA8
    movaps [rsp+0x00], xmm6
    movaps [rsp+0x10], xmm7
    movaps [rsp+0x20], xmm8
    movaps [rsp+0x30], xmm9
    movaps [rsp+0x40], xmm10
    movaps [rsp+0x50], xmm11
    movaps [rsp+0x60], xmm12
    movaps [rsp+0x70], xmm13
    movaps [rsp+0x80], xmm14
    movaps [rsp+0x90], xmm15
    .seh_endprologue
    mov [rcx+KTHREAD_KernelStack], rsp
    mov rsp, [rdx+KTHREAD_KernelStack]
    movaps xmm6, [rsp+0x00]
    movaps xmm7, [rsp+0x10]
    movaps xmm8, [rsp+0x20]
    movaps xmm9, [rsp+0x30]
    movaps xmm10, [rsp+0x40]
    movaps xmm11, [rsp+0x50]
    movaps xmm12, [rsp+0x60]
    movaps xmm13, [rsp+0x70]
    movaps xmm14, [rsp+0x80]
    movaps xmm15, [rsp+0x90]
    add rsp, 0xA8
    pop r15
    pop r14
    pop r13
    pop r12
    pop rsi
    pop rdi
    pop rbx
    pop rbp
    ret
    .seh_endproc

    .p2align 4, 0xCC
    .globl KiStartSystemThread
    .def KiStartSystemThread; .scl 2; .type 32; .endef
    .seh_proc KiStartSystemThread
KiStartSystemThread: // rbx: routine, rsi: context; KiSwapContext returns here, the stack ends here
    sub rsp, 0x20
    .seh_stackalloc 0x20
    .seh_endprologue
    sti
    mov rcx, rsi
    mov rdx, rbx
    call PspSystemThreadStartup
    int3
    .seh_endproc

    .p2align 4, 0xCC
    .globl KiClockInterrupt
    .def KiClockInterrupt; .scl 2; .type 32; .endef
    .seh_proc KiClockInterrupt
KiClockInterrupt:
    .seh_pushframe
    sub rsp, TRAP_SIZE
    .seh_stackalloc TRAP_SIZE
    .seh_endprologue
    mov [rsp+0x20], rax
    mov [rsp+0x28], rcx
    mov [rsp+0x30], rdx
    mov [rsp+0x38], r8
    mov [rsp+0x40], r9
    mov [rsp+0x48], r10
    mov [rsp+0x50], r11
    mov [rsp+0x58], rbp
    movups [rsp+0x60], xmm0
    movups [rsp+0x70], xmm1
    movups [rsp+0x80], xmm2
    movups [rsp+0x90], xmm3
    movups [rsp+0xA0], xmm4
    movups [rsp+0xB0], xmm5
    cld
    mov rcx, rsp
    call KeClockInterruptNotify
    movups xmm0, [rsp+0x60]
    movups xmm1, [rsp+0x70]
    movups xmm2, [rsp+0x80]
    movups xmm3, [rsp+0x90]
    movups xmm4, [rsp+0xA0]
    movups xmm5, [rsp+0xB0]
    mov rax, [rsp+0x20]
    mov rcx, [rsp+0x28]
    mov rdx, [rsp+0x30]
    mov r8, [rsp+0x38]
    mov r9, [rsp+0x40]
    mov r10, [rsp+0x48]
    mov r11, [rsp+0x50]
    mov rbp, [rsp+0x58]
    add rsp, TRAP_SIZE
    iretq
    .seh_endproc

// Exceptions that no debugger and no handler took come here: the frame is
// built as for any trap and KiDispatchException decides, which never returns.
    .macro TRAP name vector code=0
    .p2align 4, 0xCC
    .globl \name
    .def \name; .scl 2; .type 32; .endef
    .seh_proc \name
\name:
    .if \code
    .seh_pushframe @code
    sub rsp, TRAP_SIZE - 8
    .seh_stackalloc TRAP_SIZE - 8
    .else
    .seh_pushframe
    sub rsp, TRAP_SIZE
    .seh_stackalloc TRAP_SIZE
    .endif
    .seh_endprologue
    mov [rsp+0x20], rax
    mov [rsp+0x28], rcx
    mov [rsp+0x30], rdx
    mov [rsp+0x38], r8
    mov [rsp+0x40], r9
    mov [rsp+0x48], r10
    mov [rsp+0x50], r11
    mov [rsp+0x58], rbp
    cld
    mov rcx, rsp
    mov edx, \vector
    call KiDispatchException
    int3
    .seh_endproc
    .endm

    TRAP KiDivideErrorFault 0
    TRAP KiDebugTrapOrFault 1
    TRAP KiNmiInterrupt 2
    TRAP KiBreakpointTrap 3
    TRAP KiOverflowTrap 4
    TRAP KiBoundFault 5
    TRAP KiInvalidOpcodeFault 6
    TRAP KiNpxNotAvailableFault 7
    TRAP KiDoubleFaultAbort 8 1
    TRAP KiNpxSegmentOverrunAbort 9
    TRAP KiInvalidTssFault 10 1
    TRAP KiSegmentNotPresentFault 11 1
    TRAP KiStackFault 12 1
    TRAP KiGeneralProtectionFault 13 1
    TRAP KiPageFault 14 1
    TRAP KiFloatingErrorFault 16
    TRAP KiAlignmentFault 17 1
    TRAP KiMcheckAbort 18
    TRAP KiXmmException 19
    TRAP KiRaiseAssertion 0x2c
    TRAP KiDebugServiceTrap 0x2d
    TRAP KiCrashRequest 0xe1
    TRAP KiUnexpectedInterrupt 0xff

    .p2align 4, 0xCC
    .globl KiSystemCall64
    .def KiSystemCall64; .scl 2; .type 32; .endef
KiSystemCall64: // there is no user mode
    cli
    hlt
    int3

// 2 MiB to read, so that bulk reads have something to read: the 32-bit word at
// byte offset 4*i is i * 0x9E3779B1 + 0x4F4B4442, modulo 2^32.
    .section .bulk,"dr"
    .globl MmBulkData, MmBulkDataEnd
    .p2align 4
MmBulkData:
    .set .Li, 0
    .rept 524288
    .long (.Li * 0x9E3779B1 + 0x4F4B4442) & 0xFFFFFFFF
    .set .Li, .Li + 1
    .endr
MmBulkDataEnd:
