// Startup, clock, scheduler, bug check.
#include "ntp.h"

ULONG KeNumberProcessors;
KPRCB *KiProcessorBlock[64];
ULONG_PTR KiBugCheckData[5];
volatile ULONG KiBugCheckActive;
volatile ULONG KiProcessorsReleased;
volatile ULONG64 KeTickCount;
ULONG KeTimeIncrement, KeMaximumIncrement;
ULONG KiAutoReboot;
ULONG64 KiDpcStacks;
LIST_ENTRY KeBugCheckCallbackListHead = {&KeBugCheckCallbackListHead, &KeBugCheckCallbackListHead};
LOADER_PARAMETER_BLOCK *KeLoaderBlock;
KUSER_SHARED_DATA *MmSharedUserData;
ULONG64 KeBootTime;

static void KiInitializePcr(ULONG Number)
{
    LOADER_PROCESSOR *p = &KeLoaderBlock->Processors[Number];
    KPCR *pcr = p->Pcr;
    KPRCB *prcb = &pcr->Prcb;
    pcr->GdtBase = p->Gdt;
    pcr->IdtBase = p->Idt;
    pcr->TssBase = p->Tss;
    pcr->Self = pcr;
    pcr->Used_Self = pcr;
    pcr->CurrentPrcb = prcb;
    pcr->MajorVersion = 1;
    pcr->MinorVersion = 1;
    pcr->StallScaleFactor = 100;
    pcr->KdVersionBlock = Number == 0 ? &KdVersionBlock : NULL;
    prcb->Number = (USHORT)Number;
    prcb->MxCsr = 0x1F80;
    prcb->CpuType = 6;
    prcb->MHz = 1000;
    prcb->RspBase = (ULONG64)p->Stack;
    prcb->MaxBreakpoints = 4;
    prcb->MaxWatchpoints = 4;
    prcb->Context = &prcb->ProcessorState.ContextFrame;
    memcpy(prcb->VendorString, "OpenKDSimCPU", 13);
    InitializeListHead(&prcb->ReadyListHead);
    KiProcessorBlock[Number] = prcb;
    PspCreateIdleThread(Number, p->Stack);
}

static void KiInitializeSharedData(void)
{
    KUSER_SHARED_DATA *k = (KUSER_SHARED_DATA *)SharedUserData;
    static const WCHAR root[] = L"C:\\Windows";
    MmSharedUserData = k;
    memcpy(k->NtSystemRoot, root, sizeof(root));
    k->TickCountMultiplier = 0x0FA00000;
    k->NtBuildNumber = NtBuildNumber & 0xFFFF;
    k->NtMajorVersion = 10;
    k->NtMinorVersion = 0;
    k->NtProductType = 1;
    k->ProductTypeIsValid = 1;
    k->NativeProcessorArchitecture = 9;
    k->ImageNumberLow = k->ImageNumberHigh = 0x8664;
    k->SuiteMask = 0x110; // terminal server, single user
    k->NumberOfPhysicalPages = (ULONG)KeLoaderBlock->PhysicalPages;
    k->QpcFrequency = 10000000;
    k->KdDebuggerEnabled = 3;
    KeBootTime = KeLoaderBlock->SystemTime;
}

static void KiUpdateTime(void)
{
    KUSER_SHARED_DATA *k = MmSharedUserData;
    ULONG64 ticks = ++KeTickCount;
    ULONG64 it = ticks * KeTimeIncrement;
    ULONG64 st = KeBootTime + it;
    k->InterruptTime.High2Time = (LONG)(it >> 32);
    k->InterruptTime.LowPart = (ULONG)it;
    k->InterruptTime.High1Time = (LONG)(it >> 32);
    k->SystemTime.High2Time = (LONG)(st >> 32);
    k->SystemTime.LowPart = (ULONG)st;
    k->SystemTime.High1Time = (LONG)(st >> 32);
    k->TickCount.High2Time = (LONG)(ticks >> 32);
    k->TickCount.LowPart = (ULONG)ticks;
    k->TickCount.High1Time = (LONG)(ticks >> 32);
    k->TickCountLowDeprecated = (ULONG)ticks;
}

void KiInitializeKernel(LOADER_PARAMETER_BLOCK *LoaderBlock, ULONG Processor)
{
    if (Processor != 0) {
        while (!KiProcessorsReleased)
            __asm__ volatile("pause");
        return;
    }
    KeLoaderBlock = LoaderBlock;
    KeTimeIncrement = KeMaximumIncrement = LoaderBlock->TimeIncrement;
    KiAutoReboot = LoaderBlock->Flags & 2;
    MmInitializePool((PVOID)LoaderBlock->PoolStart, LoaderBlock->PoolSize);
    KiInitializeSharedData();
    PsInitializeSystem(LoaderBlock);
    KeNumberProcessors = 1;
    KiInitializePcr(0);
    MmInitializeLoadedModuleList(LoaderBlock);
    KdInitSystem(LoaderBlock);
    for (ULONG n = 1; n < LoaderBlock->NumberProcessors; n++) {
        KiInitializePcr(n);
        KeNumberProcessors = n + 1;
    }
    KiProcessorsReleased = 1;
    DbgPrint("NT: %u processors, %u MB of memory\n", KeNumberProcessors, (ULONG)(LoaderBlock->PhysicalPages / 256));
    MmReportBootModules();
    IoInitSystem(LoaderBlock);
    ExInitializeWorkers(LoaderBlock);
}

NOINLINE void KiIdleLoop(void)
{
    for (;;) {
        _disable();
        KiSwapThread();
        HalProcessorIdle();
    }
}

static BOOLEAN KiIsRunnable(KTHREAD *t)
{
    if (t->State == Ready)
        return TRUE;
    if (t->State != Waiting)
        return FALSE;
    if (t->WaitObject && t->WaitObject->SignalState > 0) {
        if (t->WaitObject->Type == 1) // synchronization event: one waiter takes it
            t->WaitObject->SignalState = 0;
        t->WaitObject = NULL;
        t->WaitStatus = STATUS_SUCCESS;
        t->State = Ready;
        return TRUE;
    }
    if (t->WakeTick && t->WakeTick <= KeTickCount) {
        t->WaitStatus = t->WaitObject ? 0x102 : 0;
        t->WaitObject = NULL;
        t->State = Ready;
        return TRUE;
    }
    return FALSE;
}

// Gives the processor to the next thread of its list that can run, or to its
// idle thread. Interrupts are off.
NOINLINE void KiSwapThread(void)
{
    KPRCB *prcb = KeGetCurrentPrcb();
    KTHREAD *old = prcb->CurrentThread, *next = prcb->IdleThread;
    for (LIST_ENTRY *e = prcb->ReadyListHead.Flink; e != &prcb->ReadyListHead; e = e->Flink) {
        KTHREAD *t = CONTAINING_RECORD(e, KTHREAD, QueueListEntry);
        if (KiIsRunnable(t)) {
            RemoveEntryList(e);
            InsertTailList(&prcb->ReadyListHead, e);
            next = t;
            break;
        }
    }
    prcb->QuantumEnd = 0;
    if (next == old) {
        next->State = Running;
        return;
    }
    if (old->State == Running)
        old->State = Ready;
    next->State = Running;
    next->QuantumLeft = 3;
    next->ContextSwitches++;
    prcb->ContextSwitchCount++;
    prcb->CurrentThread = next;
    prcb->RspBase = (ULONG64)next->InitialStack;
    if (old->Process->DirectoryTableBase != next->Process->DirectoryTableBase)
        __asm__ volatile("mov cr3, %0" ::"r"(next->Process->DirectoryTableBase) : "memory");
    KiSwapContext(old, next);
}

NOINLINE void KdCheckForDebugBreak(void)
{
    if (KdPollBreakIn())
        DbgBreakPointWithStatus(DBG_STATUS_CONTROL_C);
}

NOINLINE void KeClockInterruptNotify(KTRAP_FRAME *TrapFrame)
{
    KPCR *pcr = KeGetPcr();
    KPRCB *prcb = &pcr->Prcb;
    KTHREAD *t = prcb->CurrentThread;
    UCHAR irql = pcr->Irql;
    while (KiBugCheckActive)
        __asm__ volatile("hlt"); // the processor is frozen for good
    pcr->Irql = 13;
    prcb->InterruptCount++;
    if (prcb->Number == 0) {
        KiUpdateTime();
        KdCheckForDebugBreak();
    }
    t->KernelTime++;
    if (t == prcb->IdleThread || --t->QuantumLeft <= 0)
        prcb->QuantumEnd = 1;
    pcr->Irql = irql;
    if (prcb->QuantumEnd && irql < 2 && t != prcb->IdleThread)
        KiSwapThread();
}

NTSTATUS KeDelayExecutionTicks(ULONG64 Ticks)
{
    ULONG64 f = KiSaveAndDisable();
    KTHREAD *t = KeGetCurrentPrcb()->CurrentThread;
    t->WaitObject = NULL;
    t->WaitReason = 4;
    t->WakeTick = KeTickCount + (Ticks ? Ticks : 1);
    t->State = Waiting;
    KiSwapThread();
    KiRestore(f);
    return STATUS_SUCCESS;
}

NTSTATUS KeWaitForSingleObject(PVOID Object, ULONG Reason, CHAR Mode, BOOLEAN Alertable, LARGE_INTEGER *Timeout)
{
    DISPATCHER_HEADER *h = Object;
    ULONG64 f = KiSaveAndDisable();
    KTHREAD *t = KeGetCurrentPrcb()->CurrentThread;
    NTSTATUS status = STATUS_SUCCESS;
    if (h->SignalState > 0) {
        if (h->Type == 1)
            h->SignalState = 0;
    } else {
        t->WaitObject = h;
        t->WaitReason = (UCHAR)Reason;
        t->WakeTick = Timeout ? KeTickCount + (ULONG64)(-Timeout->QuadPart) / KeTimeIncrement + 1 : 0;
        t->State = Waiting;
        KiSwapThread();
        status = (NTSTATUS)t->WaitStatus;
    }
    KiRestore(f);
    return status;
}

void KeInitializeEvent(KEVENT *Event, ULONG Type, BOOLEAN State)
{
    Event->Header.Type = (UCHAR)Type;
    Event->Header.Size = sizeof(KEVENT) / 4;
    Event->Header.SignalState = State;
    InitializeListHead(&Event->Header.WaitListHead);
}

LONG KeSetEvent(KEVENT *Event, LONG Increment, BOOLEAN Wait)
{
    LONG old = Event->Header.SignalState;
    Event->Header.SignalState = 1;
    return old;
}

// Stops in the debugger again and again: there is no way back from here.
static NOINLINE void KiBugCheckDebugBreak(ULONG Status)
{
    do {
        DbgBreakPointWithStatus(Status);
        if (KiAutoReboot && Status == DBG_STATUS_BUGCHECK_SECOND)
            HalReturnToFirmware();
    } while (Status == DBG_STATUS_BUGCHECK_SECOND);
}

static NOINLINE void KeBugCheck2(ULONG Code, ULONG_PTR P1, ULONG_PTR P2, ULONG_PTR P3, ULONG_PTR P4, BOOLEAN Quiet)
{
    _disable();
    if (!KiBugCheckActive) {
        KiBugCheckActive = 1;
        KiBugCheckData[0] = Code;
        KiBugCheckData[1] = P1;
        KiBugCheckData[2] = P2;
        KiBugCheckData[3] = P3;
        KiBugCheckData[4] = P4;
        if (!Quiet && !KdDebuggerNotPresent) {
            DbgPrint("\n*** Fatal System Error: 0x%08lx\n                       (0x%p,0x%p,0x%p,0x%p)\n\n", Code, P1, P2, P3, P4);
            KiBugCheckDebugBreak(DBG_STATUS_BUGCHECK_FIRST);
        }
    }
    KiBugCheckDebugBreak(DBG_STATUS_BUGCHECK_SECOND);
}

NOINLINE void KeBugCheckEx(ULONG Code, ULONG_PTR P1, ULONG_PTR P2, ULONG_PTR P3, ULONG_PTR P4)
{
    KeBugCheck2(Code, P1, P2, P3, P4, FALSE);
    __asm__ volatile("int3");
}

// The debugger asked for a crash: no print and no first stop.
NOINLINE void KdCauseBugCheck(void)
{
    KeBugCheck2(0xE2, 0, 0, 0, 0, TRUE);
    __asm__ volatile("int3");
}

// An exception that nobody took: the system stops.
NOINLINE void KiDispatchException(KTRAP_FRAME *TrapFrame, ULONG Vector)
{
    ULONG64 cr2, code;
    __asm__ volatile("mov %0, cr2" : "=r"(cr2));
    switch (Vector) {
    case 0: code = 0xC0000094; break;
    case 1: code = 0x80000004; break;
    case 3: code = 0x80000003; break;
    case 6: code = 0xC000001D; break;
    case 13: code = 0xC0000005; cr2 = ~0ull; break;
    case 14:
        code = 0xC0000005;
        if ((LONG64)cr2 < 0)
            KeBugCheckEx(0x50, cr2, TrapFrame->ErrorCode & 0x12, TrapFrame->Rip, 2);
        break;
    case 0x2c: code = 0xC0000420; break;
    case 0xe1: KdCauseBugCheck(); return;
    default:
        KeBugCheckEx(0x7F, Vector, TrapFrame->ErrorCode, TrapFrame->Rip, 0);
        return;
    }
    // KMODE_EXCEPTION_NOT_HANDLED: code, address, the exception's two parameters
    KeBugCheckEx(0x1E, (ULONG64)(LONG64)(LONG)code, TrapFrame->Rip, Vector == 14 ? (TrapFrame->ErrorCode & 2 ? 1 : TrapFrame->ErrorCode & 16 ? 8 : 0) : 0,
                 Vector == 13 || Vector == 14 ? cr2 : 0);
}
