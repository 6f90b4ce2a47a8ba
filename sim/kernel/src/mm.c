// Pool, loaded modules, and the C library's few functions.
#include "ntp.h"

typedef struct _POOL_HEADER {
    USHORT PreviousSize, BlockSize; // in units of 16 bytes; BlockSize counts the header
    ULONG PoolTag;
    struct _POOL_HEADER *NextFree;
} POOL_HEADER;

LIST_ENTRY PsLoadedModuleList = {&PsLoadedModuleList, &PsLoadedModuleList};
static UNLOADED_DRIVERS MiUnloadedDrivers[MI_UNLOADED_DRIVERS];
UNLOADED_DRIVERS *MmUnloadedDrivers = MiUnloadedDrivers;
ULONG MmLastUnloadedDriver;
KLDR_DATA_TABLE_ENTRY *PsNtosImageEntry;
ULONG_PTR MmHighestUserAddress = 0x00007FFFFFFEFFFF, MmSystemRangeStart = 0xFFFF800000000000, MmUserProbeAddress = 0x00007FFFFFFF0000;
ULONG_PTR MmNonPagedPoolStart, MmNonPagedPoolEnd;
ULONG64 MmNumberOfPhysicalPages, MmAvailablePages, MmLowestPhysicalPage = 1, MmHighestPhysicalPage;
extern ULONG MmBulkData[524288];

static volatile ULONG MiPoolLock;
static ULONG_PTR MiPoolNext;
static POOL_HEADER *MiPoolFree[64]; // by BlockSize up to 1 KiB

void *memcpy(void *d, const void *s, SIZE_T n)
{
    void *r = d;
    __asm__ volatile("rep movsb" : "+D"(d), "+S"(s), "+c"(n)::"memory");
    return r;
}
void *memset(void *d, int c, SIZE_T n)
{
    void *r = d;
    __asm__ volatile("rep stosb" : "+D"(d), "+c"(n) : "a"(c) : "memory");
    return r;
}
SIZE_T strlen(const CHAR *s)
{
    SIZE_T n = 0;
    while (s[n])
        n++;
    return n;
}
static int Lower(int c) { return c >= 'A' && c <= 'Z' ? c + 32 : c; }
int _stricmp(const CHAR *a, const CHAR *b)
{
    for (; *a && Lower(*a) == Lower(*b); a++, b++)
        ;
    return Lower(*a) - Lower(*b);
}

void MmInitializePool(PVOID Start, SIZE_T Size)
{
    MiPoolNext = MmNonPagedPoolStart = (ULONG_PTR)Start;
    MmNonPagedPoolEnd = MmNonPagedPoolStart + Size;
}

NOINLINE PVOID ExAllocatePoolWithTag(ULONG PoolType, SIZE_T NumberOfBytes, ULONG Tag)
{
    SIZE_T units = (NumberOfBytes + 15) / 16 + 1;
    POOL_HEADER *h = NULL;
    ULONG64 f = KiSaveAndDisable();
    KiLock(&MiPoolLock);
    if (units < 64 && MiPoolFree[units]) {
        h = MiPoolFree[units];
        MiPoolFree[units] = h->NextFree;
    } else if (MiPoolNext + units * 16 <= MmNonPagedPoolEnd) {
        h = (POOL_HEADER *)MiPoolNext;
        MiPoolNext += units * 16;
    }
    KiUnlock(&MiPoolLock);
    KiRestore(f);
    if (!h)
        return NULL;
    h->BlockSize = (USHORT)(units < 0xFFFF ? units : 0xFFFF);
    h->PoolTag = Tag;
    h->NextFree = NULL;
    memset(h + 1, 0, NumberOfBytes);
    return h + 1;
}

NOINLINE void ExFreePoolWithTag(PVOID P, ULONG Tag)
{
    POOL_HEADER *h = (POOL_HEADER *)P - 1;
    if (Tag && h->PoolTag != Tag)
        KeBugCheckEx(0xC2, 0xA, (ULONG_PTR)P, h->PoolTag, Tag);
    if (h->BlockSize >= 64)
        return; // large blocks are not used again
    ULONG64 f = KiSaveAndDisable();
    KiLock(&MiPoolLock);
    h->PoolTag = 0x65657246; // "Free"
    h->NextFree = MiPoolFree[h->BlockSize];
    MiPoolFree[h->BlockSize] = h;
    KiUnlock(&MiPoolLock);
    KiRestore(f);
}

static void MiCreateString(UNICODE_STRING *u, const CHAR *s)
{
    SIZE_T n = strlen(s);
    u->Length = (USHORT)(n * 2);
    u->MaximumLength = (USHORT)(n * 2 + 2);
    u->Buffer = ExAllocatePoolWithTag(0, n * 2 + 2, 0x6E4C6D4D); // "MmLn"
    for (SIZE_T i = 0; i <= n; i++)
        u->Buffer[i] = (UCHAR)s[i];
}

static LDR_DATA_TABLE_ENTRY *MiInsertModule(LOADER_MODULE *m)
{
    LDR_DATA_TABLE_ENTRY *e = ExAllocatePoolWithTag(0, sizeof(*e), 0x644C6D4D); // "MmLd"
    e->DllBase = m->DllBase;
    e->EntryPoint = m->EntryPoint;
    e->SizeOfImage = e->SizeOfImageNotRounded = m->SizeOfImage;
    e->CheckSum = m->CheckSum;
    e->TimeDateStamp = m->TimeDateStamp;
    e->Flags = 0x09004000;
    e->LoadCount = 1;
    MiCreateString(&e->FullDllName, m->FullName);
    MiCreateString(&e->BaseDllName, m->BaseName);
    InsertTailList(&PsLoadedModuleList, &e->InLoadOrderLinks);
    return e;
}

void MmInitializeLoadedModuleList(LOADER_PARAMETER_BLOCK *LoaderBlock)
{
    MmNumberOfPhysicalPages = LoaderBlock->PhysicalPages;
    MmHighestPhysicalPage = LoaderBlock->PhysicalPages - 1;
    MmAvailablePages = LoaderBlock->PhysicalPages / 2;
    for (ULONG i = 0; i < LoaderBlock->NumberModules; i++)
        MiInsertModule(&LoaderBlock->Modules[i]);
    PsNtosImageEntry = CONTAINING_RECORD(PsLoadedModuleList.Flink, KLDR_DATA_TABLE_ENTRY, InLoadOrderLinks);
}

// Reports a module to the debugger; load with its full path, unload with its
// base name, as the kernel does.
static NOINLINE void MiReportModule(LDR_DATA_TABLE_ENTRY *e, BOOLEAN Load)
{
    CHAR b[160];
    UNICODE_STRING *u = &e->FullDllName;
    ULONG n = u->Length / 2 < sizeof(b) - 1 ? u->Length / 2 : sizeof(b) - 1;
    for (ULONG i = 0; i < n; i++)
        b[i] = (CHAR)u->Buffer[i];
    b[n] = 0;
    STRING s = {(USHORT)n, (USHORT)(n + 1), b};
    if (Load)
        DbgLoadImageSymbols(&s, e->DllBase, ~0ull, e->CheckSum, e->SizeOfImage);
    else
        DbgUnLoadImageSymbols(&s, e->DllBase, ~0ull, e->CheckSum, e->SizeOfImage);
}

void MmReportBootModules(void)
{
    LIST_ENTRY *e = PsLoadedModuleList.Flink->Flink; // the kernel was reported first of all
    for (; e != &PsLoadedModuleList; e = e->Flink)
        MiReportModule(CONTAINING_RECORD(e, LDR_DATA_TABLE_ENTRY, InLoadOrderLinks), TRUE);
    if (KeLoaderBlock->Flags & 4)
        MiReportModule(CONTAINING_RECORD(PsLoadedModuleList.Flink->Flink, LDR_DATA_TABLE_ENTRY, InLoadOrderLinks), TRUE);
}

static void MiCopyName(CHAR *d, const CHAR *prefix, const CHAR *s, ULONG size)
{
    ULONG n = 0;
    for (; *prefix && n < size - 1; prefix++)
        d[n++] = *prefix;
    for (; *s && n < size - 1; s++)
        d[n++] = *s;
    d[n] = 0;
}

NOINLINE NTSTATUS MmLoadSystemImage(const CHAR *Name, LDR_DATA_TABLE_ENTRY **Entry)
{
    LOADER_MODULE m;
    MiCopyName(SimService.Name, "", Name, sizeof(SimService.Name));
    SimCall(SIM_MAP_IMAGE);
    if (SimService.Status < 0)
        return SimService.Status;
    m.DllBase = (PVOID)SimService.Argument[0];
    m.SizeOfImage = (ULONG)SimService.Argument[1];
    m.EntryPoint = (PVOID)SimService.Argument[2];
    m.CheckSum = (ULONG)SimService.Argument[3];
    m.TimeDateStamp = (ULONG)(SimService.Argument[3] >> 32);
    MiCopyName(m.BaseName, "", Name, sizeof(m.BaseName));
    MiCopyName(m.FullName, "\\SystemRoot\\System32\\drivers\\", Name, sizeof(m.FullName));
    *Entry = MiInsertModule(&m);
    MiReportModule(*Entry, TRUE);
    return STATUS_SUCCESS;
}

NOINLINE NTSTATUS MmUnloadSystemImage(LDR_DATA_TABLE_ENTRY *e)
{
    UNLOADED_DRIVERS *u = &MiUnloadedDrivers[MmLastUnloadedDriver++ % MI_UNLOADED_DRIVERS];
    if (u->Name.Buffer)
        ExFreePoolWithTag(u->Name.Buffer, 0);
    u->Name = e->BaseDllName;
    u->StartAddress = e->DllBase;
    u->EndAddress = (UCHAR *)e->DllBase + e->SizeOfImage;
    u->CurrentTime.LowPart = SharedUserData->SystemTime.LowPart;
    u->CurrentTime.HighPart = SharedUserData->SystemTime.High1Time;
    MiReportModule(e, FALSE);
    RemoveEntryList(&e->InLoadOrderLinks);
    SimService.Argument[0] = (ULONG64)e->DllBase;
    SimCall(SIM_UNMAP_IMAGE);
    ExFreePoolWithTag(e->FullDllName.Buffer, 0);
    ExFreePoolWithTag(e, 0x644C6D4D);
    return STATUS_SUCCESS;
}

// Sums a piece of the bulk data, so that the section is used.
ULONG MmChecksumBulkData(ULONG First, ULONG Count)
{
    ULONG s = 0;
    for (ULONG i = 0; i < Count; i++)
        s += MmBulkData[(First + i) & 524287];
    return s;
}
