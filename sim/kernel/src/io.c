// Devices, drivers and the calls that reach them.
#include "ntp.h"

typedef struct _IOP_NAMED_DEVICE {
    CHAR Name[32];
    DEVICE_OBJECT *DeviceObject;
} IOP_NAMED_DEVICE;

static IOP_NAMED_DEVICE IopDevices[32];
static DRIVER_OBJECT *IopDrivers[64];
ULONG IopCreateCount, IopReadCount;

NOINLINE NTSTATUS IofCallDriver(DEVICE_OBJECT *DeviceObject, IRP *Irp)
{
    return DeviceObject->DriverObject->MajorFunction[Irp->MajorFunction](DeviceObject, Irp);
}

NOINLINE void IofCompleteRequest(IRP *Irp, CHAR PriorityBoost)
{
    Irp->Flags |= 1;
}

NTSTATUS IoCreateDevice(DRIVER_OBJECT *DriverObject, ULONG ExtensionSize, const CHAR *Name, DEVICE_OBJECT **DeviceObject)
{
    DEVICE_OBJECT *d = ExAllocatePoolWithTag(0, sizeof(*d) + ExtensionSize, 0x69766544); // "Devi"
    d->Type = 3;
    d->Size = (USHORT)(sizeof(*d) + ExtensionSize);
    d->DriverObject = DriverObject;
    d->DeviceExtension = d + 1;
    d->NextDevice = DriverObject->DeviceObject;
    DriverObject->DeviceObject = d;
    for (ULONG i = 0; i < 32; i++)
        if (!IopDevices[i].DeviceObject) {
            for (ULONG k = 0; k < 31 && Name[k]; k++)
                IopDevices[i].Name[k] = Name[k];
            IopDevices[i].DeviceObject = d;
            break;
        }
    *DeviceObject = d;
    return STATUS_SUCCESS;
}

void IoDeleteDevice(DEVICE_OBJECT *DeviceObject)
{
    for (ULONG i = 0; i < 32; i++)
        if (IopDevices[i].DeviceObject == DeviceObject)
            memset(&IopDevices[i], 0, sizeof(IopDevices[i]));
    ExFreePoolWithTag(DeviceObject, 0x69766544);
}

static NOINLINE DEVICE_OBJECT *IopParseDevice(UNICODE_STRING *Name)
{
    for (ULONG i = 0; i < 32; i++) {
        ULONG k = 0;
        while (k < Name->Length / 2u && IopDevices[i].Name[k] == (CHAR)Name->Buffer[k])
            k++;
        if (IopDevices[i].DeviceObject && k == Name->Length / 2u && !IopDevices[i].Name[k])
            return IopDevices[i].DeviceObject;
    }
    return NULL;
}

static NOINLINE NTSTATUS IopSynchronousServiceTail(DEVICE_OBJECT *d, UCHAR Major, PVOID Buffer, ULONG Length, IO_STATUS_BLOCK *Status)
{
    IRP *irp = ExAllocatePoolWithTag(0, sizeof(*irp), 0x20707249); // "Irp "
    ETHREAD *t = CONTAINING_RECORD(KeGetCurrentPrcb()->CurrentThread, ETHREAD, Tcb);
    irp->Type = 6;
    irp->Size = sizeof(*irp);
    irp->MajorFunction = Major;
    irp->SystemBuffer = Buffer;
    irp->Length = Length;
    irp->Thread = &t->Tcb;
    InsertTailList(&t->IrpList, &irp->ThreadListEntry);
    NTSTATUS s = IofCallDriver(d, irp);
    *Status = irp->IoStatus;
    RemoveEntryList(&irp->ThreadListEntry);
    ExFreePoolWithTag(irp, 0x20707249);
    return s;
}

NOINLINE NTSTATUS NtCreateFile(HANDLE *FileHandle, ULONG Access, OBJECT_ATTRIBUTES *Attributes, IO_STATUS_BLOCK *Status)
{
    DEVICE_OBJECT *d = IopParseDevice(Attributes->ObjectName);
    IopCreateCount++;
    if (!d)
        return STATUS_OBJECT_NAME_NOT_FOUND;
    NTSTATUS s = IopSynchronousServiceTail(d, IRP_MJ_CREATE, NULL, 0, Status);
    *FileHandle = s >= 0 ? d : NULL;
    return s;
}

NOINLINE NTSTATUS NtReadFile(HANDLE FileHandle, PVOID Buffer, ULONG Length, IO_STATUS_BLOCK *Status)
{
    IopReadCount++;
    return IopSynchronousServiceTail(FileHandle, IRP_MJ_READ, Buffer, Length, Status);
}

NOINLINE NTSTATUS NtClose(HANDLE Handle)
{
    IO_STATUS_BLOCK s;
    return IopSynchronousServiceTail(Handle, IRP_MJ_CLOSE, NULL, 0, &s);
}

static NTSTATUS IopInvalidDeviceRequest(DEVICE_OBJECT *DeviceObject, IRP *Irp)
{
    Irp->IoStatus.Status = (NTSTATUS)0xC0000010;
    IofCompleteRequest(Irp, 0);
    return Irp->IoStatus.Status;
}

static NOINLINE NTSTATUS IopInitializeDriver(LDR_DATA_TABLE_ENTRY *e)
{
    ULONG slot;
    for (slot = 0; slot < 64 && IopDrivers[slot]; slot++)
        ;
    DRIVER_OBJECT *d = ExAllocatePoolWithTag(0, sizeof(*d), 0x76697244); // "Driv"
    if (slot == 64 || !d)
        return STATUS_NO_MEMORY;
    d->Type = 4;
    d->Size = sizeof(*d);
    d->DriverStart = e->DllBase;
    d->DriverSize = e->SizeOfImage;
    d->DriverSection = e;
    d->DriverName = e->BaseDllName;
    d->DriverInit = (DRIVER_INITIALIZE *)e->EntryPoint;
    for (ULONG i = 0; i <= IRP_MJ_MAXIMUM_FUNCTION; i++)
        d->MajorFunction[i] = IopInvalidDeviceRequest;
    IopDrivers[slot] = d;
    NTSTATUS s = d->DriverInit(d, &d->DriverName);
    if (s < 0)
        IopDrivers[slot] = NULL;
    return s;
}

static BOOLEAN IopSameName(UNICODE_STRING *u, const CHAR *s)
{
    CHAR b[64];
    ULONG n = u->Length / 2 < 63 ? u->Length / 2 : 63;
    for (ULONG i = 0; i < n; i++)
        b[i] = (CHAR)u->Buffer[i];
    b[n] = 0;
    return _stricmp(b, s) == 0;
}

NOINLINE NTSTATUS IopLoadDriver(const CHAR *Name)
{
    LDR_DATA_TABLE_ENTRY *e;
    for (LIST_ENTRY *l = PsLoadedModuleList.Flink; l != &PsLoadedModuleList; l = l->Flink)
        if (IopSameName(&CONTAINING_RECORD(l, LDR_DATA_TABLE_ENTRY, InLoadOrderLinks)->BaseDllName, Name))
            return (NTSTATUS)0xC000010E; // already loaded
    NTSTATUS s = MmLoadSystemImage(Name, &e);
    if (s < 0)
        return s;
    s = IopInitializeDriver(e);
    if (s < 0)
        MmUnloadSystemImage(e);
    return s;
}

NOINLINE NTSTATUS IopUnloadDriver(const CHAR *Name)
{
    for (ULONG i = 0; i < 64; i++) {
        DRIVER_OBJECT *d = IopDrivers[i];
        if (!d || !IopSameName(&d->DriverName, Name))
            continue;
        if (!d->DriverUnload)
            return (NTSTATUS)0xC0000010;
        IopDrivers[i] = NULL;
        d->DriverUnload(d);
        MmUnloadSystemImage(d->DriverSection);
        ExFreePoolWithTag(d, 0x76697244);
        return STATUS_SUCCESS;
    }
    return STATUS_OBJECT_NAME_NOT_FOUND;
}

void IoInitSystem(LOADER_PARAMETER_BLOCK *LoaderBlock)
{
    // Files that a debugger may replace: asked for by name, used if given.
    static const CHAR *files[] = {"\\SystemRoot\\System32\\drivers\\openkd.sys", "\\SystemRoot\\System32\\drivers\\tcpip.sys"};
    for (ULONG i = 0; i < 2; i++) {
        memcpy(SimService.Name, files[i], strlen(files[i]) + 1);
        SimCall(SIM_PULL_FILE);
    }
    LIST_ENTRY *l = PsLoadedModuleList.Flink;
    for (ULONG i = 0; i < LoaderBlock->NumberModules; i++, l = l->Flink)
        if (LoaderBlock->Modules[i].Flags & 1)
            IopInitializeDriver(CONTAINING_RECORD(l, LDR_DATA_TABLE_ENTRY, InLoadOrderLinks));
}
