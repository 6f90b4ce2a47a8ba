// hal.dll of the simulated machine: what the kernel asks of the platform.
#include "nt.h"

static volatile ULONG64 HalpIdleCount;
static ULONG HalpStallScale = 16;

__declspec(dllexport) NOINLINE void HalProcessorIdle(void)
{
    HalpIdleCount++;
    __asm__ volatile("sti; hlt" ::: "memory");
}

__declspec(dllexport) NOINLINE void KeStallExecutionProcessor(ULONG Microseconds)
{
    for (ULONG n = Microseconds * HalpStallScale; n; n--)
        __asm__ volatile("pause");
}

__declspec(dllexport) NOINLINE UCHAR HalReadCmos(UCHAR Index)
{
    UCHAR v;
    __asm__ volatile("out dx, al" ::"a"(Index), "d"((USHORT)0x70));
    __asm__ volatile("in al, dx" : "=a"(v) : "d"((USHORT)0x71));
    return v;
}

int HalInitSystem(void) { return 1; }
