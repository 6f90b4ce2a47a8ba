#!/bin/sh
# Builds the images and PDBs of this folder's sources for three processors.
# Needs clang and lld (Debian packages of these names, version 14). The same
# tools give the same bytes again.
set -eu
cd "$(dirname "$0")"
CLANG=${CLANG:-clang}
LINK=${LINK:-lld-link}
out=${OUT:-..}
tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT

for arch in x86 x64 arm64; do
    case $arch in
    x86) triple=i686-pc-windows-msvc cxxstart=cxx_start extra=/safeseh:no ;;
    x64) triple=x86_64-pc-windows-msvc cxxstart=cxx_start extra= ;;
    arm64) triple=aarch64-pc-windows-msvc cxxstart=cxx_start extra= ;;
    esac
    common="--target=$triple -ffreestanding -fno-builtin -fno-stack-protector -fno-threadsafe-statics -fms-compatibility-version=19.20
        -fdebug-compilation-dir=. -fcoverage-compilation-dir=. -Wno-unused-value -Wno-return-type-c-linkage"
    debug="-g -gcodeview -gcolumn-info"
    objs=
    for f in types.c opt.c publics.c runtime.c classes.cpp inline.cpp typeinfo.s; do
        o=$tmp/${f%.*}.obj
        objs="$objs $o"
        case $f in
        types.c) $CLANG $common $debug -std=c11 -O0 -c $f -o $o ;;
        opt.c) $CLANG $common $debug -gno-column-info -std=c11 -O2 -c $f -o $o ;;
        runtime.c | publics.c) $CLANG $common -std=c11 -O1 -Wno-everything -c $f -o $o ;;
        classes.cpp) $CLANG $common $debug -std=c++17 -O0 -fexceptions -fcxx-exceptions -Wno-everything -c $f -o $o ;;
        inline.cpp) $CLANG $common $debug -std=c++17 -O2 -c $f -o $o ;;
        typeinfo.s) $CLANG --target=$triple -c $f -o $o ;;
        esac
    done
    (cd $tmp && $LINK /nologo /subsystem:console /nodefaultlib /entry:$cxxstart $extra /Brepro /debug:full \
        /pdbaltpath:$arch.pdb /pdbsourcepath:'c:\fixture' /pdb:$arch.pdb /out:$arch.exe \
        /opt:noref /opt:noicf /incremental:no $(for o in $objs; do basename $o; done))
    cp $tmp/$arch.exe $tmp/$arch.pdb $out/
done
ls -l $out
