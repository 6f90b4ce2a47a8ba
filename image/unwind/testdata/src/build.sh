#!/bin/sh
# Builds the images next to this folder from the sources in it. Needs clang, lld
# and llvm (Debian packages of these names, version 14 or newer). The same tools
# give the same bytes again.
set -eu
cd "$(dirname "$0")"
CLANG=${CLANG:-clang}
LINK=${LINK:-lld-link}
tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT

cc() { # target source object options
    target=$1 source=$2 object=$3
    shift 3
    $CLANG --target="$target"-pc-windows-msvc -std=c11 -ffreestanding -fno-builtin -fno-stack-protector -fasynchronous-unwind-tables -Wall -Wno-unused-function \
        -fdebug-compilation-dir=. -fcoverage-compilation-dir=. "$@" -c "$source" -o "$tmp/$object"
}
link() { # image machine entry objects and options
    image=$1 machine=$2 entry=$3
    shift 3
    (cd "$tmp" && $LINK /nologo /machine:"$machine" /subsystem:native /driver /nodefaultlib /Brepro /base:0x400000 /debug:full \
        /pdbsourcepath:'c:\unwind' /pdbaltpath:"${image%.*}.pdb" /pdb:"${image%.*}.pdb" /out:"$image" /entry:"$entry" /opt:noref /opt:noicf "$@")
    cp "$tmp/$image" ../
}

for o in 0 1 2 s; do
    cc x86_64 frames.c x64-$o.obj -O$o -mno-red-zone
    cc aarch64 frames.c arm64-$o.obj -O$o
    cc i686 frames.c x86-$o.obj -O$o -mno-sse -g -gcodeview
done
cc x86_64 x64.S x64.obj
cc aarch64 arm64.S arm64.obj
cc i686 x86.S x86.obj
for o in 0 1 2 s; do
    link x64-$o.sys x64 asmentry x64.obj x64-$o.obj /export:asmentry /export:trap /export:nested
    link arm64-$o.sys arm64 asmentry arm64.obj arm64-$o.obj
    link x86-$o.sys x86 entry x86.obj x86-$o.obj
    llvm-pdbutil dump -fpo "$tmp/x86-$o.pdb" | sed '1,/New FPO Data/d' | grep -v '^ *$' >../x86-$o.fpo
done
ls -l ..
