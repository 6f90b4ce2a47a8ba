// The kernel's side of the debugger: what it reads in memory, and the services
// that reach it through int 2Dh. The link itself is the machine's.
#include "ntp.h"

extern void DbgBreakPointWithStatusLabel(void);
extern ULONG_PTR MmHighestUserAddress, MmSystemRangeStart, MmUserProbeAddress, MmNonPagedPoolStart, MmNonPagedPoolEnd;
extern ULONG64 MmNumberOfPhysicalPages, MmAvailablePages, MmLowestPhysicalPage, MmHighestPhysicalPage;
extern UNLOADED_DRIVERS *MmUnloadedDrivers;
extern ULONG MmLastUnloadedDriver;
extern KTHREAD *PspCidTable;
extern void KiSystemCall64(void);

BOOLEAN KdDebuggerEnabled, KdDebuggerNotPresent = TRUE, KdPitchDebugger;
ULONG NtGlobalFlag;
ULONG NtBuildNumber = 0xF0000000 | 26100;
CHAR NtBuildLab[] = "26100.1.amd64fre.openkd_simulator.260101-0000";
UNICODE_STRING CmCSDVersionString;
CHAR KdPrintDefaultCircularBuffer[0x4000];
CHAR *KdPrintCircularBuffer = KdPrintDefaultCircularBuffer;
CHAR *KdPrintWritePointer = KdPrintDefaultCircularBuffer;
ULONG KdPrintRolloverCount;
ULONG KdPrintBufferSize = sizeof(KdPrintDefaultCircularBuffer);
LIST_ENTRY KdpDebuggerDataListHead = {&KdDebuggerDataBlock.List, &KdDebuggerDataBlock.List};
// Bytes that a link must not take for packet leaders or a break-in.
CHAR KdTestLeaderBytes[64] = "0000iiii0000iiiibbbb00000iiiii\xAA\xAA" "b0b0i0i0";
extern UCHAR __ImageBase;

#define A(x) ((ULONG64)&(x))
KDDEBUGGER_DATA64 KdDebuggerDataBlock = {
    .List = {&KdpDebuggerDataListHead, &KdpDebuggerDataListHead},
    .OwnerTag = 0x4742444B,
    .Size = sizeof(KDDEBUGGER_DATA64),
    .KernBase = A(__ImageBase),
    .BreakpointWithStatus = (ULONG64)DbgBreakPointWithStatus,
    .PsLoadedModuleList = A(PsLoadedModuleList),
    .PsActiveProcessHead = A(PsActiveProcessHead),
    .PspCidTable = A(PspCidTable),
    .KeTimeIncrement = A(KeTimeIncrement),
    .KeBugCheckCallbackListHead = A(KeBugCheckCallbackListHead),
    .KiBugcheckData = A(KiBugCheckData),
    .MmLowestPhysicalPage = A(MmLowestPhysicalPage),
    .MmHighestPhysicalPage = A(MmHighestPhysicalPage),
    .MmNumberOfPhysicalPages = A(MmNumberOfPhysicalPages),
    .MmNonPagedPoolStart = A(MmNonPagedPoolStart),
    .MmNonPagedPoolEnd = A(MmNonPagedPoolEnd),
    .MmPageSize = 4096,
    .MmAvailablePages = A(MmAvailablePages),
    .MmHighestUserAddress = A(MmHighestUserAddress),
    .MmSystemRangeStart = A(MmSystemRangeStart),
    .MmUserProbeAddress = A(MmUserProbeAddress),
    .KdPrintCircularBuffer = A(KdPrintDefaultCircularBuffer),
    .KdPrintCircularBufferEnd = A(KdPrintDefaultCircularBuffer[sizeof(KdPrintDefaultCircularBuffer)]),
    .KdPrintWritePointer = A(KdPrintWritePointer),
    .KdPrintRolloverCount = A(KdPrintRolloverCount),
    .NtBuildLab = A(NtBuildLab),
    .KiNormalSystemCall = (ULONG64)KiSystemCall64,
    .KiProcessorBlock = A(KiProcessorBlock),
    .MmUnloadedDrivers = A(MmUnloadedDrivers),
    .MmLastUnloadedDriver = A(MmLastUnloadedDriver),
    .CmNtCSDVersion = A(CmCSDVersionString),
    .OffsetKThreadNextProcessor = offsetof(KTHREAD, NextProcessor),
    .OffsetKThreadTeb = offsetof(KTHREAD, Teb),
    .OffsetKThreadKernelStack = offsetof(KTHREAD, KernelStack),
    .OffsetKThreadInitialStack = offsetof(KTHREAD, InitialStack),
    .OffsetKThreadApcProcess = offsetof(KTHREAD, Process),
    .OffsetKThreadState = offsetof(KTHREAD, State),
    .SizeEProcess = sizeof(EPROCESS),
    .OffsetEprocessPeb = offsetof(EPROCESS, Peb),
    .OffsetEprocessParentCID = offsetof(EPROCESS, InheritedFromUniqueProcessId),
    .OffsetEprocessDirectoryTableBase = offsetof(EPROCESS, Pcb.DirectoryTableBase),
    .SizePrcb = sizeof(KPRCB),
    .OffsetPrcbDpcRoutine = offsetof(KPRCB, DpcRoutineActive),
    .OffsetPrcbCurrentThread = offsetof(KPRCB, CurrentThread),
    .OffsetPrcbMhz = offsetof(KPRCB, MHz),
    .OffsetPrcbCpuType = offsetof(KPRCB, CpuType),
    .OffsetPrcbVendorString = offsetof(KPRCB, VendorString),
    .OffsetPrcbProcStateContext = offsetof(KPRCB, ProcessorState.ContextFrame),
    .OffsetPrcbNumber = offsetof(KPRCB, Number),
    .SizeEThread = sizeof(ETHREAD),
    .KdPrintCircularBufferPtr = A(KdPrintCircularBuffer),
    .KdPrintBufferSize = A(KdPrintBufferSize),
    .KeLoaderBlock = A(KeLoaderBlock),
    .SizePcr = sizeof(KPCR),
    .OffsetPcrSelfPcr = offsetof(KPCR, Self),
    .OffsetPcrCurrentPrcb = offsetof(KPCR, CurrentPrcb),
    .OffsetPcrContainedPrcb = offsetof(KPCR, Prcb),
    .OffsetPrcbPcrPage = offsetof(KPRCB, PcrPage),
    .OffsetPrcbProcStateSpecialReg = offsetof(KPRCB, ProcessorState.SpecialRegisters),
    .GdtR0Code = 0x10,
    .GdtR0Data = 0x18,
    .GdtR3Code = 0x30,
    .GdtR3Data = 0x28,
    .GdtR3Teb = 0x50,
    .GdtTss = 0x40,
    .Gdt64R3CmCode = 0x20,
    .Gdt64R3CmTeb = 0x50,
    .OffsetPrcbContext = offsetof(KPRCB, Context),
    .OffsetPrcbMaxBreakpoints = offsetof(KPRCB, MaxBreakpoints),
    .OffsetPrcbMaxWatchpoints = offsetof(KPRCB, MaxWatchpoints),
    .OffsetKThreadStackLimit = offsetof(KTHREAD, StackLimit),
    .OffsetKThreadStackBase = offsetof(KTHREAD, StackBase),
    .OffsetKThreadQueueListEntry = offsetof(KTHREAD, QueueListEntry),
    .OffsetEThreadIrpList = offsetof(ETHREAD, IrpList),
    .OffsetPrcbIdleThread = offsetof(KPRCB, IdleThread),
    .OffsetPrcbNormalDpcState = offsetof(KPRCB, NormalDpcState),
    .OffsetPrcbDpcStack = offsetof(KPRCB, DpcStack),
    .OffsetPrcbIsrStack = offsetof(KPRCB, IsrStack),
    .OffsetKThreadWaitReason = offsetof(KTHREAD, WaitReason),
    .PteBase = 0xFFFFF68000000000,
};

DBGKD_GET_VERSION64 KdVersionBlock = {
    .MajorVersion = 0x000F,
    .MinorVersion = 26100,
    .ProtocolVersion = 6,
    .KdSecondaryVersion = 2,
    .Flags = 0x47, // MP, data block, 64-bit pointers, HAL in NTOS form
    .MachineType = 0x8664,
    .MaxPacketType = 12,
    .MaxStateChange = 3,
    .MaxManipulate = 0x31,
    .KernBase = A(__ImageBase),
    .PsLoadedModuleList = A(PsLoadedModuleList),
    .DebuggerDataList = A(KdpDebuggerDataListHead),
};

SIM_SERVICE SimService;
SIM_MAILBOX SimMailbox;

// A break-in byte seen by the port since the last tick?
BOOLEAN KdPollBreakIn(void)
{
    ULONG v;
    __asm__ volatile("in eax, dx" : "=a"(v) : "d"((USHORT)KdpPort));
    return v != 0;
}

NOINLINE void KdInitSystem(LOADER_PARAMETER_BLOCK *LoaderBlock)
{
    LDR_DATA_TABLE_ENTRY *nt = CONTAINING_RECORD(PsLoadedModuleList.Flink, LDR_DATA_TABLE_ENTRY, InLoadOrderLinks);
    STRING name = {12, 13, "ntoskrnl.exe"};
    KdDebuggerEnabled = TRUE;
    KdDebuggerNotPresent = FALSE;
    DbgLoadImageSymbols(&name, nt->DllBase, ~0ull, nt->CheckSum, nt->SizeOfImage);
    if (LoaderBlock->Flags & 1)
        DbgBreakPointWithStatus(DBG_STATUS_CONTROL_C);
    else
        KdCheckForDebugBreak();
}

void DbgLoadImageSymbols(STRING *Name, PVOID Base, ULONG64 ProcessId, ULONG CheckSum, ULONG SizeOfImage)
{
    KD_SYMBOLS_INFO i = {Base, (PVOID)ProcessId, CheckSum, SizeOfImage};
    DebugService(3, Name, &i, 0, 0);
}

void DbgUnLoadImageSymbols(STRING *Name, PVOID Base, ULONG64 ProcessId, ULONG CheckSum, ULONG SizeOfImage)
{
    KD_SYMBOLS_INFO i = {Base, (PVOID)ProcessId, CheckSum, SizeOfImage};
    DebugService(4, Name, &i, 0, 0);
}

void DbgCommandString(STRING *Name, STRING *Command) { DebugService(5, Name, Command, 0, 0); }

static NOINLINE void KdLogDbgPrint(const CHAR *s, ULONG n)
{
    CHAR *end = KdPrintCircularBuffer + KdPrintBufferSize;
    for (ULONG i = 0; i < n; i++) {
        *KdPrintWritePointer++ = s[i];
        if (KdPrintWritePointer == end) {
            KdPrintWritePointer = KdPrintCircularBuffer;
            KdPrintRolloverCount++;
        }
    }
}

static CHAR *Number(CHAR *p, CHAR *end, ULONG64 v, ULONG base, int width, CHAR pad, BOOLEAN upper, BOOLEAN neg)
{
    CHAR b[24];
    int n = 0;
    do {
        ULONG d = (ULONG)(v % base);
        b[n++] = (CHAR)(d < 10 ? '0' + d : (upper ? 'A' : 'a') + d - 10);
        v /= base;
    } while (v);
    if (neg)
        b[n++] = '-';
    for (int i = n; i < width && p < end; i++)
        *p++ = pad;
    while (n && p < end)
        *p++ = b[--n];
    return p;
}

static ULONG Format(CHAR *out, ULONG size, const CHAR *f, __builtin_va_list ap)
{
    CHAR *p = out, *end = out + size;
    for (; *f && p < end; f++) {
        if (*f != '%') {
            *p++ = *f;
            continue;
        }
        CHAR pad = ' ';
        int width = 0, longs = 0;
        f++;
        if (*f == '0')
            pad = '0', f++;
        while (*f >= '0' && *f <= '9')
            width = width * 10 + *f++ - '0';
        for (;; f++) {
            if (*f == 'I' && f[1] == '6' && f[2] == '4')
                longs = 2, f += 2;
            else if (*f == 'l')
                longs++;
            else
                break;
        }
        switch (*f) {
        case 'd': {
            LONG64 v = longs > 1 ? __builtin_va_arg(ap, LONG64) : __builtin_va_arg(ap, LONG);
            p = Number(p, end, v < 0 ? -v : v, 10, width, pad, 0, v < 0);
            break;
        }
        case 'u':
        case 'x':
        case 'X': {
            ULONG64 v = longs > 1 ? __builtin_va_arg(ap, ULONG64) : __builtin_va_arg(ap, ULONG);
            p = Number(p, end, v, *f == 'u' ? 10 : 16, width, pad, *f == 'X', 0);
            break;
        }
        case 'p':
            p = Number(p, end, __builtin_va_arg(ap, ULONG64), 16, 16, '0', 1, 0);
            break;
        case 'c':
            *p++ = (CHAR)__builtin_va_arg(ap, int);
            break;
        case 's':
            for (const CHAR *s = __builtin_va_arg(ap, const CHAR *); *s && p < end; s++)
                *p++ = *s;
            break;
        case 'Z':
        case 'w': {
            BOOLEAN wide = *f == 'w';
            if (wide)
                f++;
            if (wide) {
                UNICODE_STRING *u = __builtin_va_arg(ap, UNICODE_STRING *);
                for (ULONG i = 0; i < u->Length / 2u && p < end; i++)
                    *p++ = (CHAR)u->Buffer[i];
            } else {
                STRING *s = __builtin_va_arg(ap, STRING *);
                for (ULONG i = 0; i < s->Length && p < end; i++)
                    *p++ = s->Buffer[i];
            }
            break;
        }
        case '%':
            *p++ = '%';
            break;
        case 0:
            return (ULONG)(p - out);
        }
    }
    return (ULONG)(p - out);
}

NOINLINE ULONG vDbgPrintExWithPrefix(ULONG ComponentId, ULONG Level, const CHAR *f, __builtin_va_list ap)
{
    CHAR buf[512];
    ULONG n = Format(buf, sizeof(buf), f, ap);
    KdLogDbgPrint(buf, n);
    ULONG64 status = DebugService(1, buf, (PVOID)(ULONG64)n, (PVOID)(ULONG64)ComponentId, (PVOID)(ULONG64)Level);
    if ((NTSTATUS)status == STATUS_BREAKPOINT)
        DbgBreakPointWithStatus(DBG_STATUS_CONTROL_C);
    return STATUS_SUCCESS;
}

ULONG DbgPrint(const CHAR *f, ...)
{
    __builtin_va_list ap;
    __builtin_va_start(ap, f);
    ULONG s = vDbgPrintExWithPrefix(~0u, 3, f, ap);
    __builtin_va_end(ap);
    return s;
}

ULONG DbgPrompt(const CHAR *Prompt, CHAR *Response, ULONG Length)
{
    return (ULONG)DebugService(2, (PVOID)Prompt, (PVOID)strlen(Prompt), Response, (PVOID)(ULONG64)Length);
}

void HalReturnToFirmware(void)
{
    SimCall(SIM_RESET);
    for (;;)
        __asm__ volatile("cli; hlt");
}
