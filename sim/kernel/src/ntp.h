// What the kernel's own files share.
#pragma once
#define NTKERNEL
#include "nt.h"

#define KdpPort 0x5F0 // the machine's services
#define KDP_POLL 0    // in: 1 if a break-in byte came

extern ULONG KeNumberProcessors, KeTimeIncrement, NtBuildNumber, MmPrintTicks;
extern volatile ULONG64 KeTickCount;
extern volatile ULONG KiBugCheckActive;
extern KPRCB *KiProcessorBlock[64];
extern ULONG_PTR KiBugCheckData[5];
extern LIST_ENTRY PsLoadedModuleList, PsActiveProcessHead, KeBugCheckCallbackListHead;
extern BOOLEAN KdDebuggerNotPresent, KdDebuggerEnabled;
extern DBGKD_GET_VERSION64 KdVersionBlock;
extern KDDEBUGGER_DATA64 KdDebuggerDataBlock;
extern LOADER_PARAMETER_BLOCK *KeLoaderBlock;
extern EPROCESS *PsInitialSystemProcess;
extern CHAR NtBuildLab[];

// The service block: the kernel asks the machine, which stands in for the
// boot loader and the firmware.
typedef struct _SIM_SERVICE {
    ULONG Operation; // SIM_xxx
    NTSTATUS Status;
    ULONG64 Argument[4];
    CHAR Name[128];
} SIM_SERVICE;
#define SIM_MAP_IMAGE 1   // Name; Argument: base, size, entry, checksum | timestamp << 32
#define SIM_UNMAP_IMAGE 2 // Argument[0]: base
#define SIM_RESET 3
#define SIM_PULL_FILE 4 // Name
#define SIM_UNLOAD_ALL 5
extern SIM_SERVICE SimService;

// The mailbox: the person outside asks the kernel.
typedef struct _SIM_MAILBOX {
    volatile ULONG Command; // set last by the machine, cleared by the kernel when done
    NTSTATUS Status;
    ULONG64 Argument[5];
    CHAR Name[128];
    CHAR Text[1024];
} SIM_MAILBOX;
extern SIM_MAILBOX SimMailbox;

static inline void SimCall(ULONG op)
{
    SimService.Operation = op;
    __asm__ volatile("out dx, eax" ::"a"(op), "d"((USHORT)(KdpPort + 4)) : "memory");
}

static inline void _disable(void) { __asm__ volatile("cli" ::: "memory"); }
static inline ULONG64 KiSaveAndDisable(void)
{
    ULONG64 f;
    __asm__ volatile("pushfq; pop %0; cli" : "=r"(f)::"memory");
    return f;
}
static inline void KiRestore(ULONG64 f)
{
    if (f & 0x200)
        __asm__ volatile("sti" ::: "memory");
}
static inline KPCR *KeGetPcr(void)
{
    KPCR *p;
    __asm__ volatile("mov %0, gs:[0x18]" : "=r"(p));
    return p;
}
static inline KPRCB *KeGetCurrentPrcb(void)
{
    KPRCB *p;
    __asm__ volatile("mov %0, gs:[0x20]" : "=r"(p));
    return p;
}
static inline void InitializeListHead(LIST_ENTRY *h) { h->Flink = h->Blink = h; }
static inline BOOLEAN IsListEmpty(LIST_ENTRY *h) { return h->Flink == h; }
static inline void InsertTailList(LIST_ENTRY *h, LIST_ENTRY *e)
{
    e->Flink = h;
    e->Blink = h->Blink;
    h->Blink->Flink = e;
    h->Blink = e;
}
static inline void RemoveEntryList(LIST_ENTRY *e)
{
    e->Blink->Flink = e->Flink;
    e->Flink->Blink = e->Blink;
}
static inline void KiLock(volatile ULONG *l)
{
    while (__sync_lock_test_and_set(l, 1))
        __asm__ volatile("pause");
}
static inline void KiUnlock(volatile ULONG *l) { __sync_lock_release(l); }

void KiSwapThread(void);
void KdCheckForDebugBreak(void);
void KiSwapContext(KTHREAD *Old, KTHREAD *New);
void KiStartSystemThread(void);
BOOLEAN KdPollBreakIn(void);
void KdInitSystem(LOADER_PARAMETER_BLOCK *LoaderBlock);
void KdCauseBugCheck(void);
void MmInitializePool(PVOID Start, SIZE_T Size);
void MmInitializeLoadedModuleList(LOADER_PARAMETER_BLOCK *LoaderBlock);
void MmReportBootModules(void);
NTSTATUS MmLoadSystemImage(const CHAR *Name, LDR_DATA_TABLE_ENTRY **Entry);
NTSTATUS MmUnloadSystemImage(LDR_DATA_TABLE_ENTRY *Entry);
void PsInitializeSystem(LOADER_PARAMETER_BLOCK *LoaderBlock);
void PspCreateIdleThread(ULONG Processor, PVOID Stack);
void IoInitSystem(LOADER_PARAMETER_BLOCK *LoaderBlock);
NTSTATUS IopLoadDriver(const CHAR *Name);
NTSTATUS IopUnloadDriver(const CHAR *Name);
void ExInitializeWorkers(LOADER_PARAMETER_BLOCK *LoaderBlock);
void DbgLoadImageSymbols(STRING *Name, PVOID Base, ULONG64 ProcessId, ULONG CheckSum, ULONG SizeOfImage);
void DbgUnLoadImageSymbols(STRING *Name, PVOID Base, ULONG64 ProcessId, ULONG CheckSum, ULONG SizeOfImage);
void DbgCommandString(STRING *Name, STRING *Command);
ULONG64 DebugService(ULONG Service, PVOID A1, PVOID A2, PVOID A3, PVOID A4);
void KiRaiseAssertionHere(void);
NTSTATUS KiSafeCopyMemory(PVOID To, PVOID From, SIZE_T Bytes);
SIZE_T strlen(const CHAR *s);
int _stricmp(const CHAR *a, const CHAR *b);
void HalProcessorIdle(void);
UCHAR HalReadCmos(UCHAR Index);
void KeStallExecutionProcessor(ULONG Microseconds);
void HalReturnToFirmware(void);
NTSYS NTSTATUS NtCreateFile(HANDLE *FileHandle, ULONG Access, OBJECT_ATTRIBUTES *Attributes, IO_STATUS_BLOCK *Status);
NTSYS NTSTATUS NtReadFile(HANDLE FileHandle, PVOID Buffer, ULONG Length, IO_STATUS_BLOCK *Status);
NTSYS NTSTATUS NtClose(HANDLE Handle);
