#!/bin/sh
# Builds the fixtures again. Needs the MinGW compilers of GCC, and clang and lld
# for ARM64 (Debian: gcc-mingw-w64, g++-mingw-w64, clang, lld).
set -e
cd "$(dirname "$0")"
out=$(cd .. && pwd)
tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT

# build NAME CC CXX LINK FLAGS
build() {
	name=$1 cc=$2 cxx=$3 link=$4
	shift 4
	for c in types other code; do
		$cc "$@" -ffreestanding -fno-ident -mno-stack-arg-probe -fdebug-prefix-map="$PWD"=/src -c $c.c -o "$tmp/$c.o"
	done
	$cxx "$@" -ffreestanding -fno-ident -mno-stack-arg-probe -fno-exceptions -fno-rtti -fno-threadsafe-statics \
		-fdebug-prefix-map="$PWD"=/src -c cxx.cpp -o "$tmp/cxx.o"
	$link -o "$out/$name.exe" "$tmp/types.o" "$tmp/other.o" "$tmp/code.o" "$tmp/cxx.o"
}

gcc64="x86_64-w64-mingw32-gcc -nostdlib -Wl,-e,Start -Wl,--no-insert-timestamp -Wl,--subsystem,native"
gcc32="i686-w64-mingw32-gcc -nostdlib -Wl,-e,_Start -Wl,--no-insert-timestamp -Wl,--subsystem,native"
build x64 x86_64-w64-mingw32-gcc x86_64-w64-mingw32-g++ "$gcc64" -gdwarf-5 -O1
build x64-dwarf4 x86_64-w64-mingw32-gcc x86_64-w64-mingw32-g++ "$gcc64" -gdwarf-4 -O2
build x86 i686-w64-mingw32-gcc i686-w64-mingw32-g++ "$gcc32" -gdwarf-5 -O1
build x86-dwarf2 i686-w64-mingw32-gcc i686-w64-mingw32-g++ "$gcc32" -gdwarf-2 -gstrict-dwarf -O0 -fomit-frame-pointer
build arm64 "clang --target=aarch64-w64-mingw32" "clang++ --target=aarch64-w64-mingw32" \
	"ld.lld -m arm64pe -e Start --no-insert-timestamp --subsystem native" -gdwarf-5 -O1
ls -l "$out"/*.exe
