// Types of the simulated kernel. The names and the general form are those that
// every Windows debugger knows from public symbols; the layouts are our own
// except where a debugger relies on an offset, and those are asserted below.
#pragma once

typedef unsigned char UCHAR, BOOLEAN;
typedef char CHAR;
typedef unsigned short USHORT, WCHAR;
typedef short SHORT;
typedef unsigned int ULONG;
typedef int LONG, NTSTATUS;
typedef unsigned long long ULONG64, ULONGLONG, ULONG_PTR, SIZE_T, KAFFINITY;
typedef long long LONG64, LONGLONG;
typedef void *PVOID, *HANDLE;
typedef double DOUBLE;

#define NULL ((void *)0)
#define TRUE 1
#define FALSE 0
#define offsetof(t, f) __builtin_offsetof(t, f)
#define CONTAINING_RECORD(p, t, f) ((t *)((UCHAR *)(p)-offsetof(t, f)))
#define NOINLINE __attribute__((noinline))
#define NTAPI
#ifdef NTKERNEL
#define NTSYS __declspec(dllexport)
#else
#define NTSYS __declspec(dllimport)
#endif

#define STATUS_SUCCESS 0
#define STATUS_UNSUCCESSFUL ((NTSTATUS)0xC0000001)
#define STATUS_BREAKPOINT ((NTSTATUS)0x80000003)
#define STATUS_ACCESS_VIOLATION ((NTSTATUS)0xC0000005)
#define STATUS_NO_SUCH_FILE ((NTSTATUS)0xC000000F)
#define STATUS_NO_MEMORY ((NTSTATUS)0xC0000017)
#define STATUS_OBJECT_NAME_NOT_FOUND ((NTSTATUS)0xC0000034)

typedef struct _LIST_ENTRY {
    struct _LIST_ENTRY *Flink, *Blink;
} LIST_ENTRY;

typedef struct _UNICODE_STRING {
    USHORT Length, MaximumLength; // bytes
    WCHAR *Buffer;
} UNICODE_STRING;

typedef struct _STRING {
    USHORT Length, MaximumLength;
    CHAR *Buffer;
} STRING;

typedef union _LARGE_INTEGER {
    struct {
        ULONG LowPart;
        LONG HighPart;
    };
    LONGLONG QuadPart;
} LARGE_INTEGER;

typedef struct _CLIENT_ID {
    HANDLE UniqueProcess, UniqueThread;
} CLIENT_ID;

typedef struct __attribute__((aligned(16))) _M128A {
    ULONGLONG Low;
    LONGLONG High;
} M128A;

typedef struct _XSAVE_FORMAT {
    USHORT ControlWord, StatusWord;
    UCHAR TagWord, Reserved1;
    USHORT ErrorOpcode;
    ULONG ErrorOffset;
    USHORT ErrorSelector, Reserved2;
    ULONG DataOffset;
    USHORT DataSelector, Reserved3;
    ULONG MxCsr, MxCsr_Mask;
    M128A FloatRegisters[8];
    M128A XmmRegisters[16];
    UCHAR Reserved4[96];
} XSAVE_FORMAT;

typedef struct __attribute__((aligned(16))) _CONTEXT {
    ULONG64 P1Home, P2Home, P3Home, P4Home, P5Home, P6Home;
    ULONG ContextFlags, MxCsr;
    USHORT SegCs, SegDs, SegEs, SegFs, SegGs, SegSs;
    ULONG EFlags;
    ULONG64 Dr0, Dr1, Dr2, Dr3, Dr6, Dr7;
    ULONG64 Rax, Rcx, Rdx, Rbx, Rsp, Rbp, Rsi, Rdi;
    ULONG64 R8, R9, R10, R11, R12, R13, R14, R15;
    ULONG64 Rip;
    XSAVE_FORMAT FltSave;
    M128A VectorRegister[26];
    ULONG64 VectorControl, DebugControl;
    ULONG64 LastBranchToRip, LastBranchFromRip, LastExceptionToRip, LastExceptionFromRip;
} CONTEXT;
_Static_assert(sizeof(CONTEXT) == 0x4D0, "CONTEXT");
_Static_assert(offsetof(CONTEXT, Rip) == 0xF8, "CONTEXT.Rip");

typedef struct _KDESCRIPTOR {
    USHORT Pad[3];
    USHORT Limit;
    PVOID Base;
} KDESCRIPTOR;

typedef struct _KSPECIAL_REGISTERS {
    ULONG64 Cr0, Cr2, Cr3, Cr4;
    ULONG64 KernelDr0, KernelDr1, KernelDr2, KernelDr3, KernelDr6, KernelDr7;
    KDESCRIPTOR Gdtr, Idtr;
    USHORT Tr, Ldtr;
    ULONG MxCsr;
    ULONG64 DebugControl, LastBranchToRip, LastBranchFromRip, LastExceptionToRip, LastExceptionFromRip;
    ULONG64 Cr8, MsrGsBase, MsrGsSwap, MsrStar, MsrLStar, MsrCStar, MsrSyscallMask;
    ULONG64 Xcr0, MsrFsBase, SpecialPadding0;
} KSPECIAL_REGISTERS;
_Static_assert(sizeof(KSPECIAL_REGISTERS) == 0xF0, "KSPECIAL_REGISTERS");

typedef struct _KPROCESSOR_STATE {
    KSPECIAL_REGISTERS SpecialRegisters;
    CONTEXT ContextFrame;
} KPROCESSOR_STATE;

typedef struct _KTRAP_FRAME {
    ULONG64 P1Home, P2Home, P3Home, P4Home; // home space of the callee
    ULONG64 Rax, Rcx, Rdx, R8, R9, R10, R11, Rbp;
    M128A Xmm0, Xmm1, Xmm2, Xmm3, Xmm4, Xmm5;
    ULONG64 ErrorCode;
    ULONG64 Rip, SegCs, EFlags, Rsp, SegSs; // pushed by the processor
} KTRAP_FRAME;
_Static_assert(offsetof(KTRAP_FRAME, Rip) == 0xC8, "KTRAP_FRAME.Rip");

typedef struct _DISPATCHER_HEADER {
    UCHAR Type, Signalling, Size, Reserved;
    LONG SignalState;
    LIST_ENTRY WaitListHead;
} DISPATCHER_HEADER;

typedef struct _KEVENT {
    DISPATCHER_HEADER Header;
} KEVENT;

typedef enum _KTHREAD_STATE { Initialized, Ready, Running, Standby, Terminated, Waiting } KTHREAD_STATE;

typedef struct _KPROCESS {
    DISPATCHER_HEADER Header;
    LIST_ENTRY ProfileListHead;
    ULONG64 DirectoryTableBase; // 0x28
    LIST_ENTRY ThreadListHead;
    KAFFINITY Affinity;
    CHAR BasePriority;
    UCHAR Reserved[7];
} KPROCESS;
_Static_assert(offsetof(KPROCESS, DirectoryTableBase) == 0x28, "KPROCESS");

typedef struct _KTHREAD {
    DISPATCHER_HEADER Header;
    PVOID InitialStack;
    PVOID StackLimit;
    PVOID StackBase;
    PVOID KernelStack;
    ULONG64 WaitStatus;
    DISPATCHER_HEADER *WaitObject;
    ULONG64 WakeTick;
    ULONG ContextSwitches;
    UCHAR State, WaitReason, NextProcessor, Priority;
    KPROCESS *Process;
    PVOID Teb;
    LIST_ENTRY ThreadListEntry; // KPROCESS.ThreadListHead
    LIST_ENTRY QueueListEntry;  // KPRCB.ReadyListHead
    LONG QuantumLeft;
    ULONG KernelTime;
} KTHREAD;

typedef struct _ETHREAD {
    KTHREAD Tcb;
    LARGE_INTEGER CreateTime;
    CLIENT_ID Cid;
    PVOID Win32StartAddress;
    PVOID StartContext;
    LIST_ENTRY ThreadListEntry; // EPROCESS.ThreadListHead
    LIST_ENTRY IrpList;
} ETHREAD;

typedef struct _EPROCESS {
    KPROCESS Pcb;
    LARGE_INTEGER CreateTime;
    HANDLE UniqueProcessId;
    LIST_ENTRY ActiveProcessLinks;
    HANDLE InheritedFromUniqueProcessId;
    PVOID Peb;
    PVOID SectionBaseAddress;
    UCHAR ImageFileName[15];
    UCHAR PriorityClass;
    LIST_ENTRY ThreadListHead;
    ULONG ActiveThreads, SessionId;
    LONG ExitStatus;
    ULONG Flags;
} EPROCESS;

typedef struct _KPRCB {
    ULONG MxCsr;
    USHORT Number; // 0x04
    UCHAR InterruptRequest, IdleHalt;
    KTHREAD *CurrentThread; // 0x08
    KTHREAD *NextThread;    // 0x10
    KTHREAD *IdleThread;    // 0x18
    ULONG64 RspBase;
    ULONG64 PrcbLock;
    ULONG MHz;
    CHAR CpuType, CpuID;
    USHORT CpuStep;
    KPROCESSOR_STATE ProcessorState; // 0x40
    LIST_ENTRY ReadyListHead;
    ULONG64 InterruptCount, ContextSwitchCount, KeSystemCalls;
    PVOID DpcStack;
    PVOID IsrStack;
    ULONG DpcRoutineActive;
    UCHAR NormalDpcState, QuantumEnd, Reserved[2];
    CONTEXT *Context; // where a stopped processor's CONTEXT is
    ULONG64 PcrPage;
    CHAR VendorString[13];
    UCHAR MaxBreakpoints, MaxWatchpoints;
} KPRCB;
_Static_assert(offsetof(KPRCB, ProcessorState) == 0x40, "KPRCB.ProcessorState");

typedef struct _KGDTENTRY64 {
    USHORT LimitLow, BaseLow;
    UCHAR BaseMiddle, Flags1, Flags2, BaseHigh;
    ULONG BaseUpper, MustBeZero;
} KGDTENTRY64;

typedef struct _KIDTENTRY64 {
    USHORT OffsetLow, Selector, Flags, OffsetMiddle;
    ULONG OffsetHigh, Reserved1;
} KIDTENTRY64;

typedef struct __attribute__((packed)) _KTSS64 {
    ULONG Reserved0;
    ULONG64 Rsp0, Rsp1, Rsp2, Ist[8];
    ULONG64 Reserved1;
    USHORT Reserved2, IoMapBase;
} KTSS64;

typedef struct _KPCR {
    KGDTENTRY64 *GdtBase;  // 0x00
    KTSS64 *TssBase;       // 0x08
    ULONG64 UserRsp;       // 0x10
    struct _KPCR *Self;    // 0x18
    KPRCB *CurrentPrcb;    // 0x20
    PVOID LockArray;       // 0x28
    PVOID Used_Self;       // 0x30
    KIDTENTRY64 *IdtBase;  // 0x38
    ULONG64 Unused[2];     // 0x40
    UCHAR Irql;            // 0x50
    UCHAR SecondLevelCacheAssociativity, ObsoleteNumber, Fill0;
    ULONG Unused0[3];
    USHORT MajorVersion, MinorVersion; // 0x60
    ULONG StallScaleFactor;
    PVOID Unused1[3];
    ULONG KernelReserved[15];
    ULONG SecondLevelCacheSize;
    ULONG HalReserved[16];
    ULONG Unused2;
    PVOID KdVersionBlock; // 0x108
    PVOID Unused3;
    ULONG PcrAlign1[24];
    KPRCB Prcb; // 0x180
} KPCR;
_Static_assert(offsetof(KPCR, Irql) == 0x50, "KPCR.Irql");
_Static_assert(offsetof(KPCR, KdVersionBlock) == 0x108, "KPCR.KdVersionBlock");
_Static_assert(offsetof(KPCR, Prcb) == 0x180, "KPCR.Prcb");

// A loaded module. Debuggers know the record by both names.
#define LDR_FIELDS                                                   \
    LIST_ENTRY InLoadOrderLinks;                                     \
    PVOID ExceptionTable;                                            \
    ULONG ExceptionTableSize;                                        \
    PVOID GpValue;                                                   \
    PVOID NonPagedDebugInfo;                                         \
    PVOID DllBase;              /* 0x30 */                           \
    PVOID EntryPoint;           /* 0x38 */                           \
    ULONG SizeOfImage;          /* 0x40 */                           \
    UNICODE_STRING FullDllName; /* 0x48 */                           \
    UNICODE_STRING BaseDllName; /* 0x58 */                           \
    ULONG Flags;                /* 0x68 */                           \
    USHORT LoadCount;           /* 0x6C */                           \
    USHORT SignatureInfo;                                            \
    PVOID SectionPointer;                                            \
    ULONG CheckSum;             /* 0x78 */                           \
    ULONG CoverageSectionSize;                                       \
    PVOID CoverageSection;                                           \
    PVOID LoadedImports;                                             \
    PVOID Spare;                                                     \
    ULONG SizeOfImageNotRounded; /* 0x98 */                          \
    ULONG TimeDateStamp;         /* 0x9C */
typedef struct _KLDR_DATA_TABLE_ENTRY {
    LDR_FIELDS
} KLDR_DATA_TABLE_ENTRY;
typedef struct _LDR_DATA_TABLE_ENTRY {
    LDR_FIELDS
} LDR_DATA_TABLE_ENTRY;
_Static_assert(offsetof(LDR_DATA_TABLE_ENTRY, DllBase) == 0x30, "DllBase");
_Static_assert(offsetof(LDR_DATA_TABLE_ENTRY, SizeOfImage) == 0x40, "SizeOfImage");
_Static_assert(offsetof(LDR_DATA_TABLE_ENTRY, FullDllName) == 0x48, "FullDllName");
_Static_assert(offsetof(LDR_DATA_TABLE_ENTRY, BaseDllName) == 0x58, "BaseDllName");
_Static_assert(offsetof(LDR_DATA_TABLE_ENTRY, Flags) == 0x68, "Flags");
_Static_assert(offsetof(LDR_DATA_TABLE_ENTRY, CheckSum) == 0x78, "CheckSum");
_Static_assert(offsetof(LDR_DATA_TABLE_ENTRY, SizeOfImageNotRounded) == 0x98, "SizeOfImageNotRounded");
_Static_assert(offsetof(LDR_DATA_TABLE_ENTRY, TimeDateStamp) == 0x9C, "TimeDateStamp");

typedef struct _UNLOADED_DRIVERS {
    UNICODE_STRING Name;
    PVOID StartAddress, EndAddress;
    LARGE_INTEGER CurrentTime;
} UNLOADED_DRIVERS;
#define MI_UNLOADED_DRIVERS 50

typedef struct _KD_SYMBOLS_INFO {
    PVOID BaseOfDll;
    PVOID ProcessId;
    ULONG CheckSum;
    ULONG SizeOfImage;
} KD_SYMBOLS_INFO;

typedef struct _DBGKD_GET_VERSION64 {
    USHORT MajorVersion, MinorVersion;
    UCHAR ProtocolVersion, KdSecondaryVersion;
    USHORT Flags, MachineType;
    UCHAR MaxPacketType, MaxStateChange, MaxManipulate, Simulation;
    USHORT Unused[1];
    ULONG64 KernBase, PsLoadedModuleList, DebuggerDataList;
} DBGKD_GET_VERSION64;
_Static_assert(sizeof(DBGKD_GET_VERSION64) == 40, "DBGKD_GET_VERSION64");

// The debugger data block: the field order debuggers expect, all slots 64 bits
// wide up to the tables of 16-bit offsets.
typedef struct _KDDEBUGGER_DATA64 {
    LIST_ENTRY List;
    ULONG OwnerTag, Size;
    ULONG64 KernBase, BreakpointWithStatus, SavedContext;
    USHORT ThCallbackStack, NextCallback, FramePointer, PaeEnabled;
    ULONG64 KiCallUserMode, KeUserCallbackDispatcher, PsLoadedModuleList, PsActiveProcessHead, PspCidTable;
    ULONG64 ExpSystemResourcesList, ExpPagedPoolDescriptor, ExpNumberOfPagedPools, KeTimeIncrement;
    ULONG64 KeBugCheckCallbackListHead, KiBugcheckData, IopErrorLogListHead, ObpRootDirectoryObject;
    ULONG64 ObpTypeObjectType, MmSystemCacheStart, MmSystemCacheEnd, MmSystemCacheWs, MmPfnDatabase;
    ULONG64 MmSystemPtesStart, MmSystemPtesEnd, MmSubsectionBase, MmNumberOfPagingFiles;
    ULONG64 MmLowestPhysicalPage, MmHighestPhysicalPage, MmNumberOfPhysicalPages;
    ULONG64 MmMaximumNonPagedPoolInBytes, MmNonPagedSystemStart, MmNonPagedPoolStart, MmNonPagedPoolEnd;
    ULONG64 MmPagedPoolStart, MmPagedPoolEnd, MmPagedPoolInformation, MmPageSize, MmSizeOfPagedPoolInBytes;
    ULONG64 MmTotalCommitLimit, MmTotalCommittedPages, MmSharedCommit, MmDriverCommit, MmProcessCommit;
    ULONG64 MmPagedPoolCommit, MmExtendedCommit, MmZeroedPageListHead, MmFreePageListHead;
    ULONG64 MmStandbyPageListHead, MmModifiedPageListHead, MmModifiedNoWritePageListHead, MmAvailablePages;
    ULONG64 MmResidentAvailablePages, PoolTrackTable, NonPagedPoolDescriptor, MmHighestUserAddress;
    ULONG64 MmSystemRangeStart, MmUserProbeAddress, KdPrintCircularBuffer, KdPrintCircularBufferEnd;
    ULONG64 KdPrintWritePointer, KdPrintRolloverCount, MmLoadedUserImageList, NtBuildLab;
    ULONG64 KiNormalSystemCall, KiProcessorBlock, MmUnloadedDrivers, MmLastUnloadedDriver;
    ULONG64 MmTriageActionTaken, MmSpecialPoolTag, KernelVerifier, MmVerifierData, MmAllocatedNonPagedPool;
    ULONG64 MmPeakCommitment, MmTotalCommitLimitMaximum, CmNtCSDVersion, MmPhysicalMemoryBlock;
    ULONG64 MmSessionBase, MmSessionSize, MmSystemParentTablePage, MmVirtualTranslationBase;
    USHORT OffsetKThreadNextProcessor, OffsetKThreadTeb, OffsetKThreadKernelStack, OffsetKThreadInitialStack;
    USHORT OffsetKThreadApcProcess, OffsetKThreadState, OffsetKThreadBStore, OffsetKThreadBStoreLimit;
    USHORT SizeEProcess, OffsetEprocessPeb, OffsetEprocessParentCID, OffsetEprocessDirectoryTableBase;
    USHORT SizePrcb, OffsetPrcbDpcRoutine, OffsetPrcbCurrentThread, OffsetPrcbMhz, OffsetPrcbCpuType;
    USHORT OffsetPrcbVendorString, OffsetPrcbProcStateContext, OffsetPrcbNumber, SizeEThread;
    ULONG64 KdPrintCircularBufferPtr, KdPrintBufferSize, KeLoaderBlock;
    USHORT SizePcr, OffsetPcrSelfPcr, OffsetPcrCurrentPrcb, OffsetPcrContainedPrcb;
    USHORT OffsetPcrInitialBStore, OffsetPcrBStoreLimit, OffsetPcrInitialStack, OffsetPcrStackLimit;
    USHORT OffsetPrcbPcrPage, OffsetPrcbProcStateSpecialReg, GdtR0Code, GdtR0Data, GdtR0Pcr;
    USHORT GdtR3Code, GdtR3Data, GdtR3Teb, GdtLdt, GdtTss, Gdt64R3CmCode, Gdt64R3CmTeb;
    ULONG64 IopNumTriageDumpDataBlocks, IopTriageDumpDataBlocks, VfCrashDataBlock, MmBadPagesDetected;
    ULONG64 MmZeroedPageSingleBitErrorsDetected, EtwpDebuggerData;
    USHORT OffsetPrcbContext, OffsetPrcbMaxBreakpoints, OffsetPrcbMaxWatchpoints;
    ULONG OffsetKThreadStackLimit, OffsetKThreadStackBase, OffsetKThreadQueueListEntry, OffsetEThreadIrpList;
    USHORT OffsetPrcbIdleThread, OffsetPrcbNormalDpcState, OffsetPrcbDpcStack, OffsetPrcbIsrStack;
    USHORT SizeKDPC_STACK_FRAME, OffsetKPriQueueThreadListHead, OffsetKThreadWaitReason, Padding;
    ULONG64 PteBase, RetpolineStubFunctionTable;
    ULONG RetpolineStubFunctionTableSize, RetpolineStubOffset, RetpolineStubSize, Reserved;
} KDDEBUGGER_DATA64;
_Static_assert(offsetof(KDDEBUGGER_DATA64, KiBugcheckData) == 0x88, "data block 88");
_Static_assert(offsetof(KDDEBUGGER_DATA64, MmPageSize) == 0x138, "data block 138");
_Static_assert(offsetof(KDDEBUGGER_DATA64, KiProcessorBlock) == 0x218, "data block 218");
_Static_assert(offsetof(KDDEBUGGER_DATA64, OffsetKThreadNextProcessor) == 0x298, "data block 298");
_Static_assert(offsetof(KDDEBUGGER_DATA64, OffsetPrcbProcStateContext) == 0x2BC, "data block 2BC");
_Static_assert(offsetof(KDDEBUGGER_DATA64, KdPrintCircularBufferPtr) == 0x2C8, "data block 2C8");
_Static_assert(offsetof(KDDEBUGGER_DATA64, OffsetPrcbProcStateSpecialReg) == 0x2F2, "data block 2F2");
_Static_assert(offsetof(KDDEBUGGER_DATA64, IopNumTriageDumpDataBlocks) == 0x308, "data block 308");
_Static_assert(offsetof(KDDEBUGGER_DATA64, OffsetPrcbContext) == 0x338, "data block 338");
_Static_assert(offsetof(KDDEBUGGER_DATA64, OffsetPrcbIdleThread) == 0x350, "data block 350");
_Static_assert(offsetof(KDDEBUGGER_DATA64, PteBase) == 0x360, "data block 360");
_Static_assert(sizeof(KDDEBUGGER_DATA64) == 0x380, "data block size");

typedef struct _KSYSTEM_TIME {
    ULONG LowPart;
    LONG High1Time, High2Time;
} KSYSTEM_TIME;

typedef struct _KUSER_SHARED_DATA {
    ULONG TickCountLowDeprecated, TickCountMultiplier;
    KSYSTEM_TIME InterruptTime; // 0x08
    KSYSTEM_TIME SystemTime;    // 0x14
    KSYSTEM_TIME TimeZoneBias;  // 0x20
    USHORT ImageNumberLow, ImageNumberHigh;
    WCHAR NtSystemRoot[260]; // 0x30
    ULONG MaxStackTraceDepth, CryptoExponent, TimeZoneId, LargePageMinimum;
    ULONG Reserved2[6];
    ULONG NtBuildNumber; // 0x260
    ULONG NtProductType; // 0x264
    UCHAR ProductTypeIsValid, Reserved0[1];
    USHORT NativeProcessorArchitecture;
    ULONG NtMajorVersion, NtMinorVersion; // 0x26C
    UCHAR ProcessorFeatures[64];          // 0x274
    ULONG Reserved1, Reserved3, TimeSlip, AlternativeArchitecture;
    ULONG BootId;
    LARGE_INTEGER SystemExpirationDate;
    ULONG SuiteMask;
    UCHAR KdDebuggerEnabled; // 0x2D4
    UCHAR MitigationPolicies;
    USHORT CyclesPerYield;
    ULONG ActiveConsoleId, DismountCount, ComPlusPackage, LastSystemRITEventTickCount;
    ULONG NumberOfPhysicalPages;
    UCHAR SafeBootMode, VirtualizationFlags, Reserved12[2];
    ULONG SharedDataFlags, DataFlagsPad[1];
    ULONG64 TestRetInstruction;
    LONG64 QpcFrequency;
    ULONG SystemCall, SystemCallPad0;
    ULONG64 SystemCallPad[2];
    KSYSTEM_TIME TickCount; // 0x320
} KUSER_SHARED_DATA;
_Static_assert(offsetof(KUSER_SHARED_DATA, NtSystemRoot) == 0x30, "KUSER 30");
_Static_assert(offsetof(KUSER_SHARED_DATA, NtBuildNumber) == 0x260, "KUSER 260");
_Static_assert(offsetof(KUSER_SHARED_DATA, NtMajorVersion) == 0x26C, "KUSER 26C");
_Static_assert(offsetof(KUSER_SHARED_DATA, KdDebuggerEnabled) == 0x2D4, "KUSER 2D4");
_Static_assert(offsetof(KUSER_SHARED_DATA, TickCount) == 0x320, "KUSER 320");
#define SharedUserData ((volatile KUSER_SHARED_DATA *)0xFFFFF78000000000ull)

typedef struct _OBJECT_ATTRIBUTES {
    ULONG Length;
    HANDLE RootDirectory;
    UNICODE_STRING *ObjectName;
    ULONG Attributes;
    PVOID SecurityDescriptor, SecurityQualityOfService;
} OBJECT_ATTRIBUTES;

typedef struct _IO_STATUS_BLOCK {
    NTSTATUS Status;
    ULONG_PTR Information;
} IO_STATUS_BLOCK;

typedef struct _DEVICE_OBJECT DEVICE_OBJECT;
typedef struct _DRIVER_OBJECT DRIVER_OBJECT;
typedef struct _IRP IRP;
typedef NTSTATUS DRIVER_DISPATCH(DEVICE_OBJECT *DeviceObject, IRP *Irp);
typedef NTSTATUS DRIVER_INITIALIZE(DRIVER_OBJECT *DriverObject, UNICODE_STRING *RegistryPath);
typedef void DRIVER_UNLOAD(DRIVER_OBJECT *DriverObject);
typedef void KSTART_ROUTINE(PVOID StartContext);

#define IRP_MJ_CREATE 0
#define IRP_MJ_CLOSE 2
#define IRP_MJ_READ 3
#define IRP_MJ_MAXIMUM_FUNCTION 0x1b

struct _DEVICE_OBJECT {
    SHORT Type;
    USHORT Size;
    LONG ReferenceCount;
    DRIVER_OBJECT *DriverObject;
    DEVICE_OBJECT *NextDevice, *AttachedDevice;
    IRP *CurrentIrp;
    ULONG Flags, Characteristics;
    PVOID DeviceExtension;
};

struct _DRIVER_OBJECT {
    SHORT Type, Size;
    DEVICE_OBJECT *DeviceObject;
    ULONG Flags;
    PVOID DriverStart;
    ULONG DriverSize;
    LDR_DATA_TABLE_ENTRY *DriverSection;
    UNICODE_STRING DriverName;
    DRIVER_INITIALIZE *DriverInit;
    DRIVER_UNLOAD *DriverUnload;
    DRIVER_DISPATCH *MajorFunction[IRP_MJ_MAXIMUM_FUNCTION + 1];
};

struct _IRP {
    SHORT Type;
    USHORT Size;
    ULONG Flags;
    PVOID SystemBuffer;
    LIST_ENTRY ThreadListEntry;
    IO_STATUS_BLOCK IoStatus;
    UCHAR MajorFunction, MinorFunction;
    ULONG Length;
    KTHREAD *Thread;
};

// What the loader hands to the kernel: one for the machine, with what each
// processor needs to begin.
typedef struct _LOADER_MODULE {
    PVOID DllBase, EntryPoint;
    ULONG SizeOfImage, CheckSum, TimeDateStamp, Flags; // Flags 1: a driver to initialise
    CHAR FullName[96], BaseName[64];
} LOADER_MODULE;

typedef struct _LOADER_PROCESSOR {
    KPCR *Pcr;
    PVOID Gdt, Idt, Tss;
    PVOID Stack; // top
} LOADER_PROCESSOR;

typedef struct _LOADER_PROCESS {
    CHAR Name[16];
    ULONG64 DirectoryTableBase;
    ULONG64 Pid;
    PVOID Peb;
} LOADER_PROCESS;

typedef struct _LOADER_PARAMETER_BLOCK {
    ULONG Size, NumberProcessors, NumberModules, NumberProcesses;
    ULONG64 KernelBase, PoolStart, PoolSize, PhysicalPages, SystemTime;
    ULONG TimeIncrement, TickMilliseconds, PrintTicks, Flags; // Flags 1: break at boot, 2: reboot after a bug check, 4: report hal.dll twice
    LOADER_MODULE *Modules;
    LOADER_PROCESS *Processes;
    LOADER_PROCESSOR Processors[64];
} LOADER_PARAMETER_BLOCK;

#define DBG_STATUS_CONTROL_C 1
#define DBG_STATUS_BUGCHECK_FIRST 3
#define DBG_STATUS_BUGCHECK_SECOND 4

NTSYS ULONG DbgPrint(const CHAR *Format, ...);
NTSYS ULONG DbgPrompt(const CHAR *Prompt, CHAR *Response, ULONG Length);
NTSYS void DbgBreakPoint(void);
NTSYS void DbgBreakPointWithStatus(ULONG Status);
NTSYS PVOID ExAllocatePoolWithTag(ULONG PoolType, SIZE_T NumberOfBytes, ULONG Tag);
NTSYS void ExFreePoolWithTag(PVOID P, ULONG Tag);
NTSYS NTSTATUS IofCallDriver(DEVICE_OBJECT *DeviceObject, IRP *Irp);
NTSYS void IofCompleteRequest(IRP *Irp, CHAR PriorityBoost);
NTSYS NTSTATUS IoCreateDevice(DRIVER_OBJECT *DriverObject, ULONG ExtensionSize, const CHAR *Name, DEVICE_OBJECT **DeviceObject);
NTSYS void IoDeleteDevice(DEVICE_OBJECT *DeviceObject);
NTSYS void KeBugCheckEx(ULONG Code, ULONG_PTR P1, ULONG_PTR P2, ULONG_PTR P3, ULONG_PTR P4);
NTSYS NTSTATUS KeDelayExecutionTicks(ULONG64 Ticks);
NTSYS NTSTATUS KeWaitForSingleObject(PVOID Object, ULONG Reason, CHAR Mode, BOOLEAN Alertable, LARGE_INTEGER *Timeout);
NTSYS LONG KeSetEvent(KEVENT *Event, LONG Increment, BOOLEAN Wait);
NTSYS void KeInitializeEvent(KEVENT *Event, ULONG Type, BOOLEAN State);
NTSYS NTSTATUS PsCreateSystemThread(HANDLE *Handle, KSTART_ROUTINE *Start, PVOID Context, ULONG Processor);
NTSYS void *memcpy(void *d, const void *s, SIZE_T n);
NTSYS void *memset(void *d, int c, SIZE_T n);
