// Frames of ARM64 that compilers rarely make, and functions with packed unwind
// data in every form.
    .text

    .macro FUNCTION name
    .p2align 2
    .globl \name
    .def \name; .scl 2; .type 32; .endef
\name:
    .endm

    FUNCTION __chkstk
    ret

    FUNCTION asmleaf
    add x0, x0, #1
    ret

    FUNCTION asmentry
    .seh_proc asmentry
    stp x29, x30, [sp, #-16]!
    .seh_save_fplr_x 16
    mov x29, sp
    .seh_set_fp
    .seh_endprologue
    bl asmleaf
    mov x0, #5
    bl entry
    .seh_startepilogue
    mov sp, x29
    .seh_set_fp
    ldp x29, x30, [sp], #16
    .seh_save_fplr_x 16
    .seh_endepilogue
    ret
    .seh_endproc

// Every code that saves one register or a pair.
    FUNCTION everysave
    .seh_proc everysave
    stp x19, x20, [sp, #-208]!
    .seh_save_r19r20_x 208
    stp x21, x22, [sp, #16]
    .seh_save_next
    stp x23, x24, [sp, #32]
    .seh_save_next
    stp x25, x26, [sp, #48]
    .seh_save_regp x25, 48
    str x27, [sp, #64]
    .seh_save_reg x27, 64
    stp d8, d9, [sp, #80]
    .seh_save_fregp d8, 80
    stp d10, d11, [sp, #96]
    .seh_save_next
    str d12, [sp, #112]
    .seh_save_freg d12, 112
    str d13, [sp, #-16]!
    .seh_save_freg_x d13, 16
    stp d14, d15, [sp, #-32]!
    .seh_save_fregp_x d14, 32
    str x28, [sp, #-16]!
    .seh_save_reg_x x28, 16
    sub sp, sp, #32
    .seh_stackalloc 32
    stp x29, x30, [sp, #16]
    .seh_save_fplr 16
    add x29, sp, #16
    .seh_add_fp 16
    nop
    .seh_nop
    .seh_endprologue
    mov x19, #1
    mov x28, #2
    bl asmleaf
    cbz x0, 1f
    nop
1:
    .seh_startepilogue
    sub sp, x29, #16
    .seh_add_fp 16
    ldp x29, x30, [sp, #16]
    .seh_save_fplr 16
    add sp, sp, #32
    .seh_stackalloc 32
    ldr x28, [sp], #16
    .seh_save_reg_x x28, 16
    ldp d14, d15, [sp], #32
    .seh_save_fregp_x d14, 32
    ldr d13, [sp], #16
    .seh_save_freg_x d13, 16
    ldr d12, [sp, #112]
    .seh_save_freg d12, 112
    ldp d10, d11, [sp, #96]
    .seh_save_next
    ldp d8, d9, [sp, #80]
    .seh_save_fregp d8, 80
    ldr x27, [sp, #64]
    .seh_save_reg x27, 64
    ldp x25, x26, [sp, #48]
    .seh_save_regp x25, 48
    ldp x23, x24, [sp, #32]
    .seh_save_next
    ldp x21, x22, [sp, #16]
    .seh_save_next
    ldp x19, x20, [sp], #208
    .seh_save_r19r20_x 208
    .seh_endepilogue
    ret
    .seh_endproc

// The pair after the last integer registers.
    FUNCTION nextfloat
    .seh_proc nextfloat
    stp x25, x26, [sp, #-80]!
    .seh_save_regp_x x25, 80
    stp x27, x28, [sp, #16]
    .seh_save_next
    stp d8, d9, [sp, #32]
    .seh_save_next
    stp d10, d11, [sp, #48]
    .seh_save_next
    str x30, [sp, #64]
    .seh_save_reg x30, 64
    .seh_endprologue
    mov x26, #1
    fmov d9, #1.0
    fmov d11, #2.0
    bl asmleaf
    .seh_startepilogue
    ldr x30, [sp, #64]
    .seh_save_reg x30, 64
    ldp d10, d11, [sp, #48]
    .seh_save_next
    ldp d8, d9, [sp, #32]
    .seh_save_next
    ldp x27, x28, [sp, #16]
    .seh_save_next
    ldp x25, x26, [sp], #80
    .seh_save_regp_x x25, 80
    .seh_endepilogue
    ret
    .seh_endproc

// Large allocations, a pair with lr, and two epilogs, one of which tail calls.
    FUNCTION largeframe
    .seh_proc largeframe
    stp x19, x20, [sp, #-32]!
    .seh_save_regp_x x19, 32
    stp x21, x30, [sp, #16]
    .seh_save_lrpair x21, 16
    sub sp, sp, #4080
    .seh_stackalloc 4080
    sub sp, sp, #16, lsl #12
    .seh_stackalloc 65536
    .seh_endprologue
    mov x21, #1
    bl asmleaf
    cbz x0, 1f
    .seh_startepilogue
    add sp, sp, #16, lsl #12
    .seh_stackalloc 65536
    add sp, sp, #4080
    .seh_stackalloc 4080
    ldp x21, x30, [sp, #16]
    .seh_save_lrpair x21, 16
    ldp x19, x20, [sp], #32
    .seh_save_regp_x x19, 32
    .seh_endepilogue
    b asmleaf
1:  mov x19, #2
    .seh_startepilogue
    add sp, sp, #16, lsl #12
    .seh_stackalloc 65536
    add sp, sp, #4080
    .seh_stackalloc 4080
    ldp x21, x30, [sp, #16]
    .seh_save_lrpair x21, 16
    ldp x19, x20, [sp], #32
    .seh_save_regp_x x19, 32
    .seh_endepilogue
    ret
    .seh_endproc

    FUNCTION hugeframe
    .seh_proc hugeframe
    str x30, [sp, #-16]!
    .seh_save_reg_x x30, 16
    sub sp, sp, #1024, lsl #12
    .seh_stackalloc 4194304
    nop // else the assembler packs the data, in which the size has no room
    .seh_nop
    .seh_endprologue
    bl asmleaf
    .seh_startepilogue
    add sp, sp, #1024, lsl #12
    .seh_stackalloc 4194304
    ldr x30, [sp], #16
    .seh_save_reg_x x30, 16
    .seh_endepilogue
    ret
    .seh_endproc

// What the processor and the kernel push.
    FUNCTION machineframe
    .seh_proc machineframe
    .seh_pushframe
    sub sp, sp, #32
    .seh_stackalloc 32
    .seh_endprologue
    nop
    .seh_endproc

    FUNCTION contextframe
    .seh_proc contextframe
    .seh_context
    .seh_endprologue
    nop
    nop
    .seh_endproc

    FUNCTION trapframe
    .seh_proc trapframe
    .seh_trap_frame
    sub sp, sp, #64
    .seh_stackalloc 64
    .seh_endprologue
    nop
    .seh_endproc

    FUNCTION exactcall
    .seh_proc exactcall
    .seh_clear_unwound_to_call
    sub sp, sp, #16
    .seh_stackalloc 16
    .seh_endprologue
    nop
    .seh_endproc

// Fragments, with data made by hand. The first has the prolog of fragparent, of
// which it is told after end_c, and saves two registers more; then one that has
// only an epilog; then one that has nothing.
    .macro DATA start words:vararg
    .section .xdata,"dr"
    .p2align 2
xdata\@:
    .long \words
    .section .pdata,"dr"
    .rva \start
    .rva xdata\@
    .text
    .endm

    FUNCTION fragments // x29 frame of 256 with x19, x20 at 240 is there when control gets here
    .if 0
    stp x29, x30, [sp, #-256]!
    stp x19, x20, [sp, #240]
    mov x29, sp
    .endif
fragshrink: // saves x21, x22 for itself
    stp x21, x22, [sp, #224]
    mov x21, #1
    bl asmleaf
    ldp x21, x22, [sp, #224]
fragnothing:
    mov x19, #2
    mov x20, #3
    bl asmleaf
fragepilog:
    mov x19, #4
    mov sp, x29
    ldp x19, x20, [sp, #240]
    ldp x29, x30, [sp], #256
    ret
fragend:
    // save_regp x21 224, end_c, set_fp, save_regp x19 240, save_fplr_x 256, end
    // one epilog, the last instruction of the fragment, which does not leave
    DATA fragshrink, (4 | 2 << 27), 0xE1E59CC8, 0xE49F1EC8
    DATA fragnothing, (3 | 1 << 21 | 0 << 22 | 2 << 27), 0x1EC8E1E5, 0xE3E3E49F
    DATA fragepilog, (5 | 1 << 21 | 1 << 22 | 2 << 27), 0x1EC8E1E5, 0xE3E3E49F

// A signed return address.
    FUNCTION signed
    hint #27 // pacibsp
    stp x29, x30, [sp, #-32]!
    mov x29, sp
    bl asmleaf
    ldp x29, x30, [sp], #32
    hint #31 // autibsp
    ret
    // set_fp, save_fplr_x 32, pac_sign_lr, end | save_fplr_x, pac_sign_lr, end
    DATA signed, (7 | 1 << 21 | 1 << 22 | 1 << 27), 0xE4FC83E1

// Registers that only code for the emulation of x64 saves.
    FUNCTION anyreg
    stp q6, q7, [sp, #-96]!
    stp x10, x11, [sp, #32]
    str d8, [sp, #48]
    stp x29, x30, [sp, #64]
    str q9, [sp, #80]
    add x29, sp, #64
    bl asmleaf
    ldr q9, [sp, #80]
    ldp x29, x30, [sp, #64]
    ldr d8, [sp, #48]
    ldp x10, x11, [sp, #32]
    ldp q6, q7, [sp], #96
    ret
    // add_fp 64, save_any_reg q9 80, save_fplr 64, save_any_reg d8 48, x10 pair 32, q6 pair 96!, end
    DATA anyreg, (13 | 1 << 21 | 2 << 22 | 4 << 27), 0x09E708E2, 0x08E74885, 0x024AE746, 0xE48566E7

// A function whose packed data says: regI integer registers and regF of floating
// point saved, the first eight parameters homed, cr as documented, a frame of
// size bytes.
    .macro STORE2 a b off
    .if first
    stp \a, \b, [sp, #-saved]!
    .set first, 0
    .else
    stp \a, \b, [sp, #\off]
    .endif
    .endm
    .macro STORE1 a off
    .if first
    str \a, [sp, #-saved]!
    .set first, 0
    .else
    str \a, [sp, #\off]
    .endif
    .endm
    .macro LOAD2 a b off
    .if \off == 0
    ldp \a, \b, [sp], #saved
    .else
    ldp \a, \b, [sp, #\off]
    .endif
    .endm
    .macro LOAD1 a off
    .if \off == 0
    ldr \a, [sp], #saved
    .else
    ldr \a, [sp, #\off]
    .endif
    .endm
    .macro INTS pair single order:vararg
    .irp i, \order
    .if \i + 2 <= nI
    INT\pair \i
    .elseif \i + 1 == nI
    INT\single \i
    .endif
    .endr
    .endm
    .macro INTSTORE2 i
    .if \i == 0
    STORE2 x19, x20, 0
    .elseif \i == 2
    STORE2 x21, x22, 16
    .elseif \i == 4
    STORE2 x23, x24, 32
    .elseif \i == 6
    STORE2 x25, x26, 48
    .else
    STORE2 x27, x28, 64
    .endif
    .endm
    .macro INTLOAD2 i
    .if \i == 0
    LOAD2 x19, x20, 0
    .elseif \i == 2
    LOAD2 x21, x22, 16
    .elseif \i == 4
    LOAD2 x23, x24, 32
    .elseif \i == 6
    LOAD2 x25, x26, 48
    .else
    LOAD2 x27, x28, 64
    .endif
    .endm
    .macro INTSTORE1 i
    .if wantlr
    .if \i == 0
    sub sp, sp, #saved
    .set first, 0
    STORE2 x19, x30, 0
    .elseif \i == 2
    STORE2 x21, x30, 16
    .elseif \i == 4
    STORE2 x23, x30, 32
    .elseif \i == 6
    STORE2 x25, x30, 48
    .else
    STORE2 x27, x30, 64
    .endif
    .else
    .if \i == 0
    STORE1 x19, 0
    .elseif \i == 2
    STORE1 x21, 16
    .elseif \i == 4
    STORE1 x23, 32
    .elseif \i == 6
    STORE1 x25, 48
    .else
    STORE1 x27, 64
    .endif
    .endif
    .endm
    .macro INTLOAD1 i
    .if wantlr
    .if \i == 0
    ldp x19, x30, [sp]
    add sp, sp, #saved
    .elseif \i == 2
    LOAD2 x21, x30, 16
    .elseif \i == 4
    LOAD2 x23, x30, 32
    .elseif \i == 6
    LOAD2 x25, x30, 48
    .else
    LOAD2 x27, x30, 64
    .endif
    .else
    .if \i == 0
    LOAD1 x19, 0
    .elseif \i == 2
    LOAD1 x21, 16
    .elseif \i == 4
    LOAD1 x23, 32
    .elseif \i == 6
    LOAD1 x25, 48
    .else
    LOAD1 x27, 64
    .endif
    .endif
    .endm
    .macro FLOATSTORE i a b
    .if \i + 2 <= nF
    STORE2 \a, \b, ints+8*\i
    .elseif \i + 1 == nF
    STORE1 \a, ints+8*\i
    .endif
    .endm
    .macro FLOATLOAD i a b
    .if \i + 2 <= nF
    LOAD2 \a, \b, ints+8*\i
    .elseif \i + 1 == nF
    LOAD1 \a, ints+8*\i
    .endif
    .endm
    .macro PACKED name regI regF h cr size flag=1
    .set nI, \regI
    .set wantlr, \cr == 1
    .set ints, 8 * \regI
    .if \cr == 1
    .set ints, ints + 8
    .endif
    .set nF, 0
    .if \regF > 0
    .set nF, \regF + 1
    .endif
    .set saved, (ints + 8 * nF + 64 * \h + 15) & ~15
    .set locals, \size - saved
    .set first, 1
    FUNCTION \name
    .if \cr == 2
    hint #27
    .endif
    INTS STORE2 STORE1 0, 2, 4, 6, 8
    .if \cr == 1 && (\regI & 1) == 0
    STORE1 x30, ints-8
    .endif
    FLOATSTORE 0, d8, d9
    FLOATSTORE 2, d10, d11
    FLOATSTORE 4, d12, d13
    FLOATSTORE 6, d14, d15
    .if \h
    STORE2 x0, x1, saved-64
    STORE2 x2, x3, saved-48
    STORE2 x4, x5, saved-32
    STORE2 x6, x7, saved-16
    .endif
    .if \cr >= 2
    .if locals <= 512
    stp x29, x30, [sp, #-locals]!
    .else
    .if locals > 4080
    sub sp, sp, #4080
    sub sp, sp, #locals-4080
    .else
    sub sp, sp, #locals
    .endif
    stp x29, x30, [sp]
    .endif
    mov x29, sp
    .elseif locals > 4080
    sub sp, sp, #4080
    sub sp, sp, #locals-4080
    .elseif locals > 0
    sub sp, sp, #locals
    .endif
    nop
    .if \cr > 0
    bl asmleaf
    .endif
    nop
    .if \cr >= 2
    .if locals <= 512
    ldp x29, x30, [sp], #locals
    .else
    ldp x29, x30, [sp]
    .endif
    .endif
    .if locals > 512 || (locals > 0 && \cr < 2)
    .if locals > 4080
    add sp, sp, #locals-4080
    add sp, sp, #4080
    .else
    add sp, sp, #locals
    .endif
    .endif
    FLOATLOAD 6, d14, d15
    FLOATLOAD 4, d12, d13
    FLOATLOAD 2, d10, d11
    FLOATLOAD 0, d8, d9
    .if \cr == 1 && (\regI & 1) == 0
    LOAD1 x30, ints-8
    .endif
    INTS LOAD2 LOAD1 8, 6, 4, 2, 0
    .if \regI == 0 && \regF == 0 && \cr != 1 && \h
    add sp, sp, #saved
    .endif
    .if \cr == 2
    hint #31
    .endif
    ret
1001:
    .section .pdata,"dr"
    .rva \name
    .long \flag | ((1001b - \name) / 4) << 2 | \regF << 13 | \regI << 16 | \h << 20 | \cr << 21 | (\size / 16) << 23
    .text
    .endm

    PACKED p1, 0, 0, 0, 3, 32
    PACKED p2, 1, 0, 0, 3, 2080
    PACKED p3, 2, 0, 0, 3, 48
    PACKED p4, 3, 1, 0, 3, 96
    PACKED p5, 10, 7, 0, 3, 240
    PACKED p6, 10, 7, 1, 3, 800
    PACKED p7, 5, 2, 1, 3, 8000
    PACKED p8, 0, 0, 0, 0, 64
    PACKED p9, 0, 0, 0, 0, 5120
    PACKED p10, 2, 0, 0, 0, 16
    PACKED p11, 3, 0, 0, 0, 64
    PACKED p12, 0, 3, 0, 0, 64
    PACKED p13, 0, 0, 1, 0, 96
    PACKED p14, 4, 4, 1, 0, 160
    PACKED p15, 0, 0, 0, 1, 32
    PACKED p16, 2, 0, 0, 1, 48
    PACKED p17, 3, 0, 0, 1, 48
    PACKED p18, 10, 7, 1, 1, 6000
    PACKED p19, 0, 5, 0, 1, 80
    PACKED p20, 9, 0, 0, 1, 96
    PACKED p21, 1, 0, 0, 1, 48
    PACKED p22, 0, 0, 0, 2, 32
    PACKED p23, 3, 2, 1, 2, 704
    PACKED p24, 0, 0, 1, 3, 112
    PACKED p25, 0, 0, 1, 1, 96
    PACKED p26, 0, 2, 1, 3, 128
