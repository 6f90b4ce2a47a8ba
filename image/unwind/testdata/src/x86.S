    .intel_syntax noprefix
    .globl "@feat.00" // the linker wants to be told that there are no exception handlers
    "@feat.00" = 1
    .text
    .globl __chkstk
    .def __chkstk; .scl 2; .type 32; .endef
__chkstk:
    ret
