// sample.sys: a driver that comes and goes.
#include "nt.h"

ULONG SampleLoads;
static DEVICE_OBJECT *SampleDevice;

static NOINLINE NTSTATUS SampleDispatch(DEVICE_OBJECT *DeviceObject, IRP *Irp)
{
    Irp->IoStatus.Status = STATUS_SUCCESS;
    IofCompleteRequest(Irp, 0);
    return STATUS_SUCCESS;
}

static NOINLINE void SampleUnload(DRIVER_OBJECT *DriverObject)
{
    IoDeleteDevice(SampleDevice);
    DbgPrint("sample: unloaded\n");
}

NTSTATUS DriverEntry(DRIVER_OBJECT *DriverObject, UNICODE_STRING *RegistryPath)
{
    SampleLoads++;
    DriverObject->DriverUnload = SampleUnload;
    DriverObject->MajorFunction[IRP_MJ_CREATE] = SampleDispatch;
    DbgPrint("sample: loaded at %p\n", DriverObject->DriverStart);
    return IoCreateDevice(DriverObject, 16, "\\Device\\Sample", &SampleDevice);
}
