// Threads with work to do, and the one that does what the person outside asks.
#include "ntp.h"

NTSTATUS PspCreateThread(EPROCESS *p, KSTART_ROUTINE *Start, PVOID Context, ULONG Processor, ETHREAD **Thread);
ULONG MmChecksumBulkData(ULONG First, ULONG Count);

typedef struct _WORK_QUEUE_ITEM {
    LIST_ENTRY List;
    ULONG64 (*WorkerRoutine)(ULONG64);
    ULONG64 Parameter;
} WORK_QUEUE_ITEM;

LIST_ENTRY ExWorkerQueue = {&ExWorkerQueue, &ExWorkerQueue};
KEVENT ExpWorkEvent;
volatile ULONG64 ExpWorkItemCount; // grows with every item: a good place for a data breakpoint
volatile ULONG64 ExpWorkResult;
volatile ULONG SimWatchedVariable;
ULONG MmPrintTicks;
ULONG64 CcSum[2];
int _fltused; // asked for by code with floating point
static UCHAR MiCopySource[4096], MiCopyTarget[4096];

// A recursive function, for stacks.
NOINLINE ULONG64 RtlFibonacci(ULONG64 n)
{
    if (n < 2)
        return n;
    return RtlFibonacci(n - 1) + RtlFibonacci(n - 2);
}

// A function with a frame of its own.
NOINLINE ULONG64 RtlChecksumTable(ULONG64 n)
{
    ULONG64 table[64], s = 0;
    for (ULONG i = 0; i < 64; i++)
        table[i] = n * i + (i ^ 0x5A);
    for (ULONG i = 0; i < 64; i++)
        s = s * 31 + *(volatile ULONG64 *)&table[i];
    return s;
}

static NOINLINE void ExpWorkerThread(PVOID Context)
{
    for (;;) {
        KeWaitForSingleObject(&ExpWorkEvent, 15, 0, FALSE, NULL);
        while (!IsListEmpty(&ExWorkerQueue)) {
            WORK_QUEUE_ITEM *w = CONTAINING_RECORD(ExWorkerQueue.Flink, WORK_QUEUE_ITEM, List);
            RemoveEntryList(&w->List);
            ExpWorkResult = w->WorkerRoutine(w->Parameter);
            ExpWorkItemCount++;
            ExFreePoolWithTag(w, 0x6B726F57); // "Work"
        }
    }
}

static NOINLINE void KeBalanceSetManager(PVOID Context)
{
    for (ULONG64 round = 0;; round++) {
        for (ULONG i = 0; i < 4; i++) {
            WORK_QUEUE_ITEM *w = ExAllocatePoolWithTag(0, sizeof(*w), 0x6B726F57);
            w->WorkerRoutine = i & 1 ? RtlChecksumTable : RtlFibonacci;
            w->Parameter = 5 + (round + i) % 4;
            InsertTailList(&ExWorkerQueue, &w->List);
        }
        KeSetEvent(&ExpWorkEvent, 0, FALSE);
        KeDelayExecutionTicks(4);
    }
}

static NOINLINE void MmZeroPageThread(PVOID Context)
{
    for (ULONG64 round = 0;; round++) {
        for (ULONG i = 0; i < 64; i++)
            MiCopySource[i] = (UCHAR)(round + i);
        memcpy(MiCopyTarget, MiCopySource, 512);
        memset(MiCopySource, 0, 512);
        ExpWorkResult += MmChecksumBulkData((ULONG)round * 16, 16);
        KeDelayExecutionTicks(7);
    }
}

// Floating point in SSE registers.
static NOINLINE void CcLazyWriter(PVOID Context)
{
    DOUBLE x = 1.0;
    for (ULONG64 round = 0;; round++) {
        DOUBLE s = 0;
        for (ULONG i = 1; i <= 20; i++)
            s += x / (DOUBLE)(i * i);
        x = x > 1000.0 ? 1.0 : x * 1.5;
        *(DOUBLE *)&CcSum[0] = s;
        CcSum[1] = round;
        KeDelayExecutionTicks(9);
    }
}

// Opens and reads a device, over and over.
static NOINLINE void IopReaderThread(PVOID Context)
{
    static WCHAR name[] = L"\\Device\\Openkd";
    UNICODE_STRING u = {sizeof(name) - 2, sizeof(name), name};
    OBJECT_ATTRIBUTES a = {sizeof(a), NULL, &u, 0x240};
    IO_STATUS_BLOCK io;
    CHAR buffer[64];
    for (;;) {
        HANDLE h;
        if (NtCreateFile(&h, 0x80000000, &a, &io) >= 0) {
            NtReadFile(h, buffer, sizeof(buffer), &io);
            NtClose(h);
        }
        KeDelayExecutionTicks(5);
    }
}

// A thread in a process with its own address space: counts in user memory.
static NOINLINE void PspUserThread(PVOID Context)
{
    volatile ULONG64 *p = Context;
    for (;;) {
        p[1]++;
        KeDelayExecutionTicks(11);
    }
}

// Touches an address that is not there.
static NOINLINE ULONG SimpReadBadAddress(ULONG64 Address, ULONG64 Write)
{
    if (Write) {
        *(volatile ULONG *)Address = 0x1234;
        return 0;
    }
    return *(volatile ULONG *)Address;
}

static NOINLINE NTSTATUS SimpDispatch(SIM_MAILBOX *m)
{
    ULONG64 *a = m->Argument;
    switch (m->Command) {
    case 1:
        DbgPrint("%s", m->Text);
        return STATUS_SUCCESS;
    case 2:
        a[0] = DbgPrompt(m->Text, m->Text, sizeof(m->Text) / 2);
        return STATUS_SUCCESS;
    case 3:
        return IopLoadDriver(m->Name);
    case 4:
        return IopUnloadDriver(m->Name);
    case 5:
        KeBugCheckEx((ULONG)a[0], a[1], a[2], a[3], a[4]);
        return STATUS_SUCCESS;
    case 6:
        a[0] = SimpReadBadAddress(a[0], a[1]);
        return STATUS_SUCCESS;
    case 7: {
        STRING n = {(USHORT)strlen(m->Name), sizeof(m->Name), m->Name};
        STRING c = {(USHORT)strlen(m->Text), sizeof(m->Text), m->Text};
        DbgCommandString(&n, &c);
        return STATUS_SUCCESS;
    }
    case 8:
        DbgBreakPoint();
        return STATUS_SUCCESS;
    case 9:
        SimCall(SIM_UNLOAD_ALL);
        HalReturnToFirmware();
        return STATUS_SUCCESS;
    case 10:
        return KiSafeCopyMemory(&a[1], (PVOID)a[0], 8);
    case 11:
        KiRaiseAssertionHere();
        return STATUS_SUCCESS;
    case 12:
        SimWatchedVariable = (ULONG)a[0];
        return STATUS_SUCCESS;
    case 13:
        a[0] = RtlFibonacci(a[0]);
        return STATUS_SUCCESS;
    }
    return STATUS_UNSUCCESSFUL;
}

static NOINLINE void SimpCommandThread(PVOID Context)
{
    ULONG64 next = MmPrintTicks;
    ULONG count = 0;
    for (;;) {
        if (SimMailbox.Command) {
            SimMailbox.Status = SimpDispatch(&SimMailbox);
            SimMailbox.Command = 0;
        }
        if (MmPrintTicks && KeTickCount >= next) {
            next = KeTickCount + MmPrintTicks;
            DbgPrint("openkd: %u work items, %u seconds up\n", (ULONG)ExpWorkItemCount,
                     (ULONG)(KeTickCount * KeTimeIncrement / 10000000));
            count++;
        }
        KeDelayExecutionTicks(1);
    }
}

void ExInitializeWorkers(LOADER_PARAMETER_BLOCK *LoaderBlock)
{
    LIST_ENTRY *e;
    ULONG n = 1;
    MmPrintTicks = LoaderBlock->PrintTicks;
    KeInitializeEvent(&ExpWorkEvent, 1, FALSE);
    PsCreateSystemThread(NULL, SimpCommandThread, NULL, 0);
    PsCreateSystemThread(NULL, ExpWorkerThread, NULL, 0);
    PsCreateSystemThread(NULL, KeBalanceSetManager, NULL, 0);
    PsCreateSystemThread(NULL, MmZeroPageThread, NULL, 1);
    PsCreateSystemThread(NULL, CcLazyWriter, NULL, 1);
    PsCreateSystemThread(NULL, IopReaderThread, NULL, 2);
    for (e = PsActiveProcessHead.Flink; e != &PsActiveProcessHead; e = e->Flink) {
        EPROCESS *p = CONTAINING_RECORD(e, EPROCESS, ActiveProcessLinks);
        if (p->Peb)
            PspCreateThread(p, PspUserThread, p->Peb, n++, NULL);
    }
}
