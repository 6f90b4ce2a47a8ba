// Processes and threads.
#include "ntp.h"

LIST_ENTRY PsActiveProcessHead = {&PsActiveProcessHead, &PsActiveProcessHead};
EPROCESS *PsInitialSystemProcess, *PsIdleProcess;
PVOID PspCidTable;
static ULONG64 PspNextThreadId = 8;
static volatile ULONG PspLock;

static EPROCESS *PspCreateProcess(const CHAR *Name, ULONG64 Pid, ULONG64 Cr3, EPROCESS *Parent, PVOID Peb)
{
    EPROCESS *p = ExAllocatePoolWithTag(0, sizeof(*p), 0x636F7250); // "Proc"
    p->Pcb.Header.Type = 3;
    p->Pcb.Header.Size = sizeof(KPROCESS) / 4;
    InitializeListHead(&p->Pcb.Header.WaitListHead);
    InitializeListHead(&p->Pcb.ProfileListHead);
    InitializeListHead(&p->Pcb.ThreadListHead);
    InitializeListHead(&p->ThreadListHead);
    p->Pcb.DirectoryTableBase = Cr3;
    p->Pcb.Affinity = ~0ull;
    p->Pcb.BasePriority = 8;
    p->UniqueProcessId = (HANDLE)Pid;
    p->InheritedFromUniqueProcessId = Parent ? Parent->UniqueProcessId : 0;
    p->Peb = Peb;
    p->ExitStatus = 0x103;
    p->CreateTime.LowPart = SharedUserData->SystemTime.LowPart;
    p->CreateTime.HighPart = SharedUserData->SystemTime.High1Time;
    for (ULONG i = 0; i < 14 && Name[i]; i++)
        p->ImageFileName[i] = Name[i];
    return p;
}

void PsInitializeSystem(LOADER_PARAMETER_BLOCK *LoaderBlock)
{
    PsIdleProcess = PspCreateProcess("Idle", 0, LoaderBlock->Processes[0].DirectoryTableBase, NULL, NULL);
    for (ULONG i = 0; i < LoaderBlock->NumberProcesses; i++) {
        LOADER_PROCESS *l = &LoaderBlock->Processes[i];
        EPROCESS *p = PspCreateProcess(l->Name, l->Pid, l->DirectoryTableBase, PsInitialSystemProcess, l->Peb);
        if (!PsInitialSystemProcess)
            PsInitialSystemProcess = p;
        InsertTailList(&PsActiveProcessHead, &p->ActiveProcessLinks);
    }
}

static void PspInsertThread(ETHREAD *t, EPROCESS *p)
{
    t->Tcb.Header.Type = 6;
    t->Tcb.Header.Size = sizeof(KTHREAD) / 4;
    InitializeListHead(&t->Tcb.Header.WaitListHead);
    InitializeListHead(&t->IrpList);
    t->Tcb.Process = &p->Pcb;
    t->Cid.UniqueProcess = p->UniqueProcessId;
    t->CreateTime.LowPart = SharedUserData->SystemTime.LowPart;
    t->CreateTime.HighPart = SharedUserData->SystemTime.High1Time;
    InsertTailList(&p->Pcb.ThreadListHead, &t->Tcb.ThreadListEntry);
    InsertTailList(&p->ThreadListHead, &t->ThreadListEntry);
    p->ActiveThreads++;
}

// The thread that a processor starts in.
void PspCreateIdleThread(ULONG Processor, PVOID Stack)
{
    ETHREAD *t = ExAllocatePoolWithTag(0, sizeof(*t), 0x65726854); // "Thre"
    t->Tcb.InitialStack = t->Tcb.StackBase = Stack;
    t->Tcb.StackLimit = (UCHAR *)Stack - 0x6000;
    t->Tcb.State = Running;
    t->Tcb.NextProcessor = (UCHAR)Processor;
    PspInsertThread(t, PsIdleProcess);
    KPRCB *prcb = KiProcessorBlock[Processor];
    prcb->IdleThread = prcb->CurrentThread = &t->Tcb;
}

// A thread of any process, bound to a processor.
NOINLINE NTSTATUS PspCreateThread(EPROCESS *p, KSTART_ROUTINE *Start, PVOID Context, ULONG Processor, ETHREAD **Thread)
{
    ETHREAD *t = ExAllocatePoolWithTag(0, sizeof(*t), 0x65726854);
    UCHAR *stack = ExAllocatePoolWithTag(0, 0x6000, 0x6B74534B); // "KStk"
    if (!t || !stack)
        return STATUS_NO_MEMORY;
    Processor %= KeNumberProcessors;
    t->Tcb.StackLimit = stack;
    t->Tcb.StackBase = t->Tcb.InitialStack = stack + 0x6000;
    t->Tcb.Priority = 8;
    t->Tcb.NextProcessor = (UCHAR)Processor;
    t->Win32StartAddress = (PVOID)Start;
    t->StartContext = Context;
    // The frame KiSwapContext returns through: xmm6..15 (A8), r15..r12, rsi, rdi, rbx, rbp, return.
    ULONG64 *sp = (ULONG64 *)(stack + 0x6000 - 0x30) - 1;
    *sp = (ULONG64)KiStartSystemThread;
    sp -= 8;
    sp[4] = (ULONG64)Context; // rsi
    sp[6] = (ULONG64)Start;   // rbx
    sp = (ULONG64 *)((UCHAR *)sp - 0xA8);
    t->Tcb.KernelStack = sp;
    ULONG64 f = KiSaveAndDisable();
    KiLock(&PspLock);
    t->Cid.UniqueThread = (HANDLE)PspNextThreadId;
    PspNextThreadId += 4;
    PspInsertThread(t, p);
    InsertTailList(&KiProcessorBlock[Processor]->ReadyListHead, &t->Tcb.QueueListEntry);
    t->Tcb.State = Ready;
    KiUnlock(&PspLock);
    KiRestore(f);
    if (Thread)
        *Thread = t;
    return STATUS_SUCCESS;
}

NTSTATUS PsCreateSystemThread(HANDLE *Handle, KSTART_ROUTINE *Start, PVOID Context, ULONG Processor)
{
    ETHREAD *t;
    NTSTATUS s = PspCreateThread(PsInitialSystemProcess, Start, Context, Processor, &t);
    if (Handle)
        *Handle = s >= 0 ? t : NULL;
    return s;
}

NOINLINE void PspSystemThreadStartup(PVOID Context, KSTART_ROUTINE *Start)
{
    Start(Context);
    _disable();
    ETHREAD *t = CONTAINING_RECORD(KeGetCurrentPrcb()->CurrentThread, ETHREAD, Tcb);
    EPROCESS *p = CONTAINING_RECORD(t->Tcb.Process, EPROCESS, Pcb);
    KiLock(&PspLock);
    RemoveEntryList(&t->Tcb.ThreadListEntry);
    RemoveEntryList(&t->ThreadListEntry);
    RemoveEntryList(&t->Tcb.QueueListEntry);
    p->ActiveThreads--;
    KiUnlock(&PspLock);
    t->Tcb.State = Terminated;
    KiSwapThread();
}
