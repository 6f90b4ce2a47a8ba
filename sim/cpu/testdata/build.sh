#!/bin/sh
# Rebuilds the flat programs of this directory: clang and ld.lld.
set -e
cd "$(dirname "$0")"
for v in "int -O1 -mgeneral-regs-only" "sse -O2 -DFLOATS" "vec -O3 -DFLOATS -funroll-loops"; do
	set -- $v
	name=$1
	shift
	clang --target=x86_64-unknown-elf -ffreestanding -fno-pic -mno-red-zone -ffp-contract=off -fno-math-errno -fno-asynchronous-unwind-tables -fno-builtin-memcpy -fno-builtin-memset "$@" -c prog.c -o prog.o
	ld.lld --image-base=0x10000 -T /dev/stdin --oformat=binary -o "prog_$name.bin" prog.o <<'LD'
SECTIONS { . = 0x10000; .all : { *(.text.start) *(.text*) *(.rodata*) *(.data*) *(.bss*) } /DISCARD/ : { *(.comment) *(.note*) *(.eh_frame*) } }
LD
	rm prog.o
done
