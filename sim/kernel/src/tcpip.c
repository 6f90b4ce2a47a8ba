// tcpip.sys: a driver with a thread of its own.
#include "nt.h"

ULONG TcpipSegments;
static UCHAR TcpipSegment[1460];

NOINLINE USHORT TcpipChecksum(const UCHAR *p, ULONG n)
{
    ULONG s = 0;
    for (ULONG i = 0; i + 1 < n; i += 2)
        s += p[i] << 8 | p[i + 1];
    while (s >> 16)
        s = (s & 0xFFFF) + (s >> 16);
    return (USHORT)~s;
}

static NOINLINE void TcpipReceiveThread(PVOID Context)
{
    for (;;) {
        TcpipSegment[TcpipSegments % sizeof(TcpipSegment)]++;
        TcpipSegments += TcpipChecksum(TcpipSegment, 64) != 0;
        KeDelayExecutionTicks(6);
    }
}

NTSTATUS DriverEntry(DRIVER_OBJECT *DriverObject, UNICODE_STRING *RegistryPath)
{
    return PsCreateSystemThread(NULL, TcpipReceiveThread, NULL, 3);
}
