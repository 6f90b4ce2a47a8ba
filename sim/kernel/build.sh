#!/bin/sh
# Builds the images of the simulated machine from the sources in src.
# Needs clang, lld and llvm (Debian packages of these names, version 14 or
# newer). The same tools give the same bytes again.
set -eu
cd "$(dirname "$0")/src"
CLANG=${CLANG:-clang}
LINK=${LINK:-lld-link}
out=../image
tmp=obj
mkdir -p $tmp
trap 'rm -rf "$tmp"' EXIT
mkdir -p $out

cc() { # source
    o=$tmp/${1%.*}.obj
    g="-g -gcodeview"
    [ "$1" = start.S ] && g=
    $CLANG --target=x86_64-pc-windows-msvc -std=c11 -O1 $g -fstandalone-debug -fasynchronous-unwind-tables -ffreestanding -fno-builtin \
        -fno-stack-protector -mno-stack-arg-probe -masm=intel -Wall -Wno-unused-function -Wno-microsoft \
        -fdebug-compilation-dir=. -fcoverage-compilation-dir=. -c "$1" -o "$o"
}
link() { # output pdb then options
    image=$1 pdb=$2
    shift 2
    $LINK /nologo /machine:x64 /subsystem:native /nodefaultlib /Brepro /debug:full /pdbaltpath:"$pdb" \
        /pdbsourcepath:'c:\openkd\sim\kernel\src' /pdb:$out/"$pdb" /out:$out/"$image" /opt:noref /opt:noicf \
        /incremental:no /map:$tmp/"$image".map "$@"
    # Symbol list: hexadecimal offset from the image base, name.
    awk '$1 ~ /^[0-9a-f]+:[0-9a-f]+$/ && NF >= 4 && $2 !~ /@/ && $3 ~ /^000000018[0-9a-f]+$/ { print "0" substr($3, 10), $2 }' $tmp/"$image".map | sort -u > $out/"$image".sym
}

for f in start.S hal.c ke.c kd.c mm.c ps.c io.c ex.c openkd.c tcpip.c sample.c; do cc $f; done
link hal.dll hal.pdb /dll /base:0x180000000 /entry:HalInitSystem /implib:$tmp/hal.lib $tmp/hal.obj
link ntoskrnl.exe ntkrnlmp.pdb /base:0x180000000 /entry:KiSystemStartup /implib:$tmp/nt.lib \
    $tmp/start.obj $tmp/ke.obj $tmp/kd.obj $tmp/mm.obj $tmp/ps.obj $tmp/io.obj $tmp/ex.obj $tmp/hal.lib
for d in openkd tcpip sample; do
    link $d.sys $d.pdb /driver /base:0x180000000 /entry:DriverEntry $tmp/$d.obj $tmp/nt.lib
done
ls -l $out
